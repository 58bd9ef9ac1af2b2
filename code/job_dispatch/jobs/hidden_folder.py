"""The hidden folder of a run in its output folder: where worker folders are made, and from where they are moved.

It holds `lock`, the worker folders that are being made in `new`, those of an earlier run that are being replaced
in `old`, and, while folders are moved, `journal.json` with what `new` held: each worker folder with its files.
What is found there by the next run is its own only if it is that and nothing else; then it is removed, or moved
back. Anything else ends that run with a sentence, before anything is touched.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Sequence
from pathlib import Path

from job_dispatch.jobs import own_files
from job_dispatch.messages import RequestError, ServiceError, logger, warn_listing

# Hidden, so that a pipeline's `results/*` does not take it for a worker.
HIDDEN = ".dispatch"
_NEW, _OLD, _LOCK, _JOURNAL = "new", "old", "lock", "journal.json"
_UNFINISHED = f"{_JOURNAL}{own_files.UNFINISHED}"
_KNOWN = frozenset((_NEW, _OLD, _LOCK, _JOURNAL, _UNFINISHED))
# How a journal begins, by which one that was not written whole is recognised.
_BEGINNING = b'{"moved": {'
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)
_TRIES = 100

Moved = dict[str, list[str]]
_ABSENT = object()


class HiddenFolder:
    """The hidden folder of one run, locked; what a killed run left in it is cleared.

    Parameters
    ----------
    directory : pathlib.Path
        The output folder.
    parent : int
        Descriptor of the output folder.

    Attributes
    ----------
    was_complete : bool
        The run that was killed had moved all its folders.

    Raises
    ------
    RequestError
        Something in it was not made by a run of this user.
    ServiceError
        Another run holds the lock.
    """

    def __init__(self, directory: Path, parent: int) -> None:
        self._directory, self._parent = directory, parent
        self._place = str(directory / HIDDEN)
        self._has_made_lock = False
        self._folder, self._lock = self._locked()
        self.was_complete = False
        try:
            self._recover()
        except BaseException:
            if self._has_made_lock:
                os.unlink(_LOCK, dir_fd=self._folder)
            self._close()
            raise

    def begin(self) -> int:
        """Make the folder for new worker folders and return its descriptor."""
        os.mkdir(_NEW, dir_fd=self._folder)
        return own_files.open_folder(_NEW, self._folder, f"{self._place}/{_NEW}")

    def exchange(self, new: int, earlier: Sequence[str]) -> None:
        """Move the earlier worker folders out and the new ones into place; if that fails, all are where they were."""
        os.mkdir(_OLD, dir_fd=self._folder)
        old = own_files.open_folder(_OLD, self._folder, f"{self._place}/{_OLD}")
        try:
            moved = {name: own_files.job_names(name, new) or [] for name in own_files.names(new)}
            own_files.write_whole(_JOURNAL, self._folder, {"moved": moved})
            try:
                for name in earlier:
                    os.rename(name, name, src_dir_fd=self._parent, dst_dir_fd=old)
                for name in moved:
                    self._move(name, new, self._parent)
            except BaseException:
                self._take_back(new, old, moved)
                raise
            os.unlink(_JOURNAL, dir_fd=self._folder)
        finally:
            os.close(old)

    def release(self) -> None:
        """Remove what runs have made here, and the folder if that was all.

        A journal is there still if moves could not be taken back: then all stays, for the next run to do that.
        """
        with contextlib.suppress(OSError, RequestError):
            if not own_files.exists(_JOURNAL, self._folder):
                for name in (_NEW, _OLD):
                    if own_files.exists(name, self._folder):
                        self._remove_workers(name)
        with contextlib.suppress(OSError):
            if left := sorted(set(own_files.names(self._folder)) - {_LOCK}):
                what = "what a run could not move back" if _JOURNAL in left else "what no run has made"
                warn_listing(f"{self._place}: {what} is left there:", left)
            elif self._is_in_place():
                os.unlink(_LOCK, dir_fd=self._folder)
                os.rmdir(HIDDEN, dir_fd=self._parent)
        self._close()

    def _close(self) -> None:
        os.close(self._folder)
        os.close(self._lock)

    def _locked(self) -> tuple[int, int]:
        """Make or find the folder and the lock in it; return the descriptors of both."""
        for _ in range(_TRIES):
            with contextlib.suppress(FileExistsError):
                os.mkdir(HIDDEN, dir_fd=self._parent)
            with contextlib.suppress(FileNotFoundError), contextlib.ExitStack() as undo:
                # Not found: a run that ended at this moment took its folder with it.
                folder = own_files.open_folder(HIDDEN, self._parent, self._place)
                undo.callback(os.close, folder)
                if unknown := sorted(set(own_files.names(folder)) - _KNOWN):
                    raise own_files.refusal(f"{self._place}/{unknown[0]}", "was not made by a run")
                flags = os.O_RDWR | os.O_CREAT
                self._has_made_lock = not own_files.exists(_LOCK, folder)
                lock = own_files.open_file(_LOCK, folder, f"{self._place}/{_LOCK}", flags)
                undo.callback(os.close, lock)
                if self._take(lock, folder):
                    undo.pop_all()
                    return folder, lock
        raise ServiceError(f"--output_directory: {self._place} is made and removed all the time; try again later")

    def _take(self, lock: int, folder: int) -> bool:
        """Lock the file; tell whether it is still the one in place."""
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ServiceError(
                f"--output_directory: another run is writing into {self._directory};"
                " wait for it or choose another folder"
            ) from None
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            logger.warning("%s: this file system has no locks; no other run may write there", self._directory)
        there = os.stat(_LOCK, dir_fd=folder, follow_symlinks=False)
        above = os.stat(HIDDEN, dir_fd=self._parent, follow_symlinks=False)
        return os.path.samestat(os.fstat(lock), there) and os.path.samestat(os.fstat(folder), above)

    def _is_in_place(self) -> bool:
        above = os.stat(HIDDEN, dir_fd=self._parent, follow_symlinks=False)
        return os.path.samestat(os.fstat(self._folder), above)

    def _recover(self) -> None:
        """Clear what a killed run left; the lock says that it is not running any more."""
        with contextlib.ExitStack() as stack:
            new, old = (self._left(name, stack) for name in (_NEW, _OLD))
            unfinished = self._journal_in(_UNFINISHED)
            moved = self._journal(old)
            if moved is not None and (new is None or old is None):
                raise own_files.refusal(f"{self._place}/{_JOURNAL}", "was not written by a run")
            if moved is not None and new is not None and old is not None:
                names = self._take_back(new, old, moved)
                text = "folders of a run that was killed in its last moment are removed:"
                if names:
                    warn_listing(f"{self._directory}: {text}", names)
            elif old is not None and new is not None:
                self.was_complete = not own_files.names(new)
        for name in (_NEW, _OLD):
            if own_files.exists(name, self._folder):
                logger.debug("removing %s/%s, left by a run that was killed", self._place, name)
                self._remove_workers(name)
                if own_files.exists(name, self._folder):
                    raise RequestError(f"--output_directory: {self._place}/{name} cannot be removed; move it away")
        if unfinished is not _ABSENT:
            os.unlink(_UNFINISHED, dir_fd=self._folder)

    def _left(self, name: str, stack: contextlib.ExitStack) -> int | None:
        """Open a folder that a run left, None where it left none; refuse it if it holds anything but worker folders."""
        place = f"{self._place}/{name}"
        try:
            descriptor = own_files.open_folder(name, self._folder, place)
        except FileNotFoundError:
            return None
        stack.callback(os.close, descriptor)
        for worker in own_files.names(descriptor):
            if own_files.job_names(worker, descriptor) is None:
                raise own_files.refusal(f"{place}/{worker}", "holds something else than jobs")
        return descriptor

    def _journal(self, old: int | None) -> Moved | None:
        """Return which folders with which files a killed run was moving, None where no move had begun."""
        place = f"{self._place}/{_JOURNAL}"
        value = self._journal_in(_JOURNAL)
        if value is _ABSENT:
            return None
        if value is None:  # a disk that failed: it is written whole before the first move
            if old is not None and own_files.names(old):
                raise own_files.refusal(place, "cannot be read")
            os.unlink(_JOURNAL, dir_fd=self._folder)
            return None
        moved = value.get("moved") if isinstance(value, dict) else None
        if not isinstance(moved, dict) or not all(
            own_files.is_worker_name(name) and isinstance(files, list) and all(isinstance(one, str) for one in files)
            for name, files in moved.items()
        ):
            raise own_files.refusal(place, "is not the journal of a run of this version")
        return moved

    def _journal_in(self, name: str) -> object:
        """Return what a file of the journal's holds, None where it was not written whole."""
        try:
            return own_files.read_json(name, self._folder, f"{self._place}/{name}", _BEGINNING)
        except FileNotFoundError:
            return _ABSENT

    def _take_back(self, new: int, old: int, moved: Moved) -> list[str]:
        """Undo moves that were begun; return the names of those folders.

        Each move is undone by a move, so that this can be killed as well and begun again.
        """
        begun = [name for name in moved if not own_files.exists(name, new) and own_files.exists(name, self._parent)]
        earlier = own_files.names(old)
        for name in begun:
            if own_files.job_names(name, self._parent) != sorted(moved[name]):
                place = f"{self._directory}/{name}"
                raise own_files.refusal(place, "holds other files than those that a killed run moved there")
        for name in set(earlier) - set(begun):
            if own_files.exists(name, self._parent):
                raise own_files.refusal(f"{self._directory}/{name}", "stands where a folder must be moved back")
        for name in begun:
            self._move(name, self._parent, new)
        for name in earlier:
            self._move(name, old, self._parent)
        os.unlink(_JOURNAL, dir_fd=self._folder)
        return begun

    def _move(self, name: str, source: int, target: int) -> None:
        """Move a folder; an empty one that is in the way would be replaced without a word."""
        if own_files.exists(name, target):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), name)
        os.rename(name, name, src_dir_fd=source, dst_dir_fd=target)

    def _remove_workers(self, name: str) -> None:
        folder = own_files.open_folder(name, self._folder, f"{self._place}/{name}")
        try:
            for worker in own_files.names(folder):
                own_files.remove_worker_folder(worker, folder)
        finally:
            os.close(folder)
        with contextlib.suppress(OSError):  # not empty
            os.rmdir(name, dir_fd=self._folder)
