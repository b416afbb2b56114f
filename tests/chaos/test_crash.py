"""A few crashes of every runbook, at the boundaries that matter most; ``make chaos`` tries them all."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor

import pytest

import flows
from tests.chaos.sweep import TURNS, Traced, choose, crash, trace
from tests.chaos.boundaries import Point

POINTS = 2
