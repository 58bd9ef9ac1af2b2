"""The capsule's entry point: dispatch from `data` to `results`, which are in the same folder as `code`."""

from pathlib import Path

from job_dispatch.main import run

if __name__ == "__main__":
    run(Path(__file__).resolve().parents[1])
