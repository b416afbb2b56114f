-- The app's tables as its Prisma migrations leave them, the missing index on Subscription.userId included.
CREATE TABLE "School" ("id" TEXT PRIMARY KEY, "name" TEXT NOT NULL, "createdAt" TIMESTAMP(3) NOT NULL DEFAULT CURRENT_TIMESTAMP);
CREATE TABLE "SchoolCode" ("id" TEXT PRIMARY KEY, "code" TEXT NOT NULL, "schoolId" TEXT NOT NULL);
CREATE TABLE "User" (
    "id" TEXT PRIMARY KEY, "name" TEXT, "email" TEXT, "emailVerified" TIMESTAMP(3), "image" TEXT, "password" TEXT,
    "schoolId" TEXT, "role" TEXT NOT NULL DEFAULT 'user', "createdAt" TIMESTAMP(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "failedLoginAttempts" INTEGER NOT NULL DEFAULT 0, "formatTemplate" TEXT, "lockedUntil" TIMESTAMP(3),
    "preferences" JSONB, "onboarded" BOOLEAN NOT NULL DEFAULT false
);
CREATE UNIQUE INDEX "User_email_key" ON "User"("email");
CREATE TABLE "Account" (
    "id" TEXT PRIMARY KEY, "userId" TEXT NOT NULL REFERENCES "User"("id"), "type" TEXT NOT NULL,
    "provider" TEXT NOT NULL, "providerAccountId" TEXT NOT NULL
);
CREATE TABLE "Session" (
    "id" TEXT PRIMARY KEY, "sessionToken" TEXT NOT NULL UNIQUE, "userId" TEXT NOT NULL REFERENCES "User"("id"),
    "expires" TIMESTAMP(3) NOT NULL
);
CREATE TABLE "VerificationToken" (
    "identifier" TEXT NOT NULL, "token" TEXT NOT NULL UNIQUE, "expires" TIMESTAMP(3) NOT NULL
);
CREATE TABLE "Subscription" (
    "id" TEXT PRIMARY KEY, "stripeCustomerId" TEXT, "stripeSubscriptionId" TEXT, "status" TEXT, "plan" TEXT,
    "schoolId" TEXT, "createdAt" TIMESTAMP(3) NOT NULL DEFAULT CURRENT_TIMESTAMP, "trialEndsAt" TIMESTAMP(3),
    "userId" TEXT REFERENCES "User"("id")
);
CREATE UNIQUE INDEX "Subscription_stripeCustomerId_key" ON "Subscription"("stripeCustomerId");
CREATE TABLE "Class" (
    "id" TEXT PRIMARY KEY, "userId" TEXT NOT NULL REFERENCES "User"("id"), "name" TEXT NOT NULL, "color" TEXT,
    "type" TEXT, "createdAt" TIMESTAMP(3) NOT NULL DEFAULT CURRENT_TIMESTAMP, "updatedAt" TIMESTAMP(3) NOT NULL
);
CREATE UNIQUE INDEX "Class_userId_name_key" ON "Class"("userId", "name");
CREATE TABLE "ContentItem" (
    "id" TEXT PRIMARY KEY, "userId" TEXT NOT NULL REFERENCES "User"("id"), "classId" TEXT REFERENCES "Class"("id"),
    "type" TEXT NOT NULL, "title" TEXT, "originalInput" TEXT, "summaries" JSONB, "metadata" JSONB,
    "createdAt" TIMESTAMP(3) NOT NULL DEFAULT CURRENT_TIMESTAMP, "updatedAt" TIMESTAMP(3) NOT NULL
);
CREATE INDEX "ContentItem_userId_classId_idx" ON "ContentItem"("userId", "classId");
CREATE INDEX "ContentItem_userId_type_idx" ON "ContentItem"("userId", "type");
CREATE TABLE "BetaTester" (
    "id" TEXT PRIMARY KEY, "userId" TEXT NOT NULL UNIQUE REFERENCES "User"("id"), "trialType" TEXT, "schoolName" TEXT,
    "organizationName" TEXT, "trialEndsAt" TIMESTAMP(3), "status" TEXT NOT NULL DEFAULT 'pending'
);
CREATE TABLE "_prisma_migrations" (
    "id" VARCHAR(36) PRIMARY KEY, "checksum" VARCHAR(64) NOT NULL, "finished_at" TIMESTAMPTZ,
    "migration_name" VARCHAR(255) NOT NULL, "logs" TEXT, "rolled_back_at" TIMESTAMPTZ,
    "started_at" TIMESTAMPTZ NOT NULL DEFAULT now(), "applied_steps_count" INTEGER NOT NULL DEFAULT 0
);
