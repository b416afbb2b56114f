"""An index that is taken back takes the migration along that would build it again, while that is only ours."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from demo.postgres import Postgres
from deployments.undoing import undo
from flows.slow_queries import HANDS
from runbook import settings
from runbook.ledger import ledger
from runbook.model import Outcome
from tests.flows.slow_parts import MADE, clean, only, run, watched


@pytest.fixture
def shop(server: Postgres) -> Iterator[Postgres]:
    with clean(server):
        yield server


@pytest.fixture
def ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The app's folder of migrations."""
    folder = tmp_path / "migrations"
    folder.mkdir()
    monkeypatch.setenv("RUNBOOK_MIGRATIONS_DIR", str(folder))
    settings.forget()
    return folder


async def test_its_migration_goes_with_an_index_that_is_taken_back_and_comes_back_with_it(
    shop: Postgres, ours: Path
) -> None:
    await watched(shop)
    built = only(await run(), "create_index")
    (folder,) = ours.glob("*")
    back = await undo(ledger(), built.id)
    assert back.outcome is Outcome.undone and f"removed: {folder}" in back.notices[0], back
    assert list(ours.iterdir()) == []
    again = HANDS["drop_index"].undone
    assert again is not None and (await again(back.fixes[0]))[-1].startswith("written: ")
    assert len(list(ours.glob(f"*_{MADE}/migration.sql"))) == 1


@pytest.mark.parametrize("why", ["changed", "another file", "deployed", "no folder set"])
async def test_a_migration_that_is_no_longer_only_ours_stays_and_that_is_said(
    shop: Postgres, ours: Path, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    await watched(shop)
    built = only(await run(), "create_index")
    (folder,) = ours.glob("*")
    says = {
        "changed": "was changed since it was written and stays",
        "another file": "was changed since it was written and stays",
        "deployed": f'was deployed and stays: add a migration with DROP INDEX IF EXISTS "public"."{MADE}";',
        "no folder set": "RUNBOOK_MIGRATIONS_DIR is not set",
    }
    with psycopg.connect(shop.url(), autocommit=True) as owner:
        match why:
            case "changed":
                (folder / "migration.sql").write_text("SELECT 1;")
            case "another file":
                (folder / "README").touch()
            case "deployed":
                row = 'INSERT INTO "_prisma_migrations" ("id", "checksum", "migration_name", "finished_at") '
                owner.execute(f"{row} VALUES ('ours', 'x', %s, now())".encode(), [folder.name])
            case _:
                monkeypatch.delenv("RUNBOOK_MIGRATIONS_DIR")
                settings.forget()
        back = await undo(ledger(), built.id)
        owner.execute("DELETE FROM \"_prisma_migrations\" WHERE id = 'ours'")
    assert back.outcome is Outcome.undone and says[why] in back.notices[0], back
    assert folder.is_dir()
