"""`jobledger demo`: the whole of Jobledger at work on real specs, with proof."""

import asyncio
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

import click
from rich.console import Console

from jobledger.service.demo.checks import check_all
from jobledger.service.demo.inputs import BadFile, Planned, plan_jobs, read_examples, read_files
from jobledger.service.demo.show import StepTeller, check_list, jobs_table, timeline_table
from jobledger.service.demo.story import VIEW_FILE, Told, tell

_ENDING_SIGNALS = (signal.SIGTERM, signal.SIGHUP)
