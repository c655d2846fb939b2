"""What surrounds the verbs that run under one bar; the demo's tests have the bar itself."""

import sys
from contextlib import contextmanager

from rational_jax.manifest import Stage
from rational_jax.progress import SILENT
from rational_jax.workflow.steps import Step, run_steps


def test_tfds_is_there_before_the_bars_are_and_only_where_something_is_to_be_done(tmp_path, monkeypatch):
    seen = []

    class Bars:
        @contextmanager
        def task(self, *arguments, **options):
            seen.append("tensorflow_datasets" in sys.modules)
            with SILENT.task(*arguments, **options) as task:
                yield task

    def verb(progress):
        stage = Stage.open(tmp_path / "curate", verb="curate", settings={}, inputs={})
        if not stage.complete:
            stage.finish({}, {})

    for expected in (True, False):
        monkeypatch.delitem(sys.modules, "tensorflow_datasets", raising=False)
        run_steps([Step(verb="curate", folder="curate", seconds=1.0, run=verb)], tmp_path, "demo", Bars())
        assert seen.pop() is expected
