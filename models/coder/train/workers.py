"""Batches made ahead by other processes, so that a fast device does not wait for NumPy."""
import collections
import ctypes
import multiprocessing as mp
import queue
import signal

import torch


def work(feed, tasks, results, lead):
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)                         # PR_SET_PDEATHSIG: do not outlive a killed parent
    signal.signal(signal.SIGTERM, signal.SIG_IGN)                      # the trainer saves first; None in the queue ends us
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    while True:
        task = tasks.get()
        if task is None:
            return
        results.put(feed.batch(*task, lead=lead))


class Ahead:
    """`batch(stage, number)` like Feed's, from `count` processes; 0 makes it here. Start it before a GPU is touched."""

    def __init__(self, feed, count, depth=12):
        self.feed, self.count, self.depth, self.asked, self.turn = feed, count, depth, collections.deque(), 0
        context = mp.get_context("fork")
        self.tasks = [context.Queue() for _ in range(count)]
        self.results = [context.Queue(depth) for _ in range(count)]
        # they lay out the next epoch one after the other, never all at once: what lies in the queues bridges it
        self.processes = [context.Process(target=work, args=(feed, t, r, 0.2 + 0.6 * i / count), daemon=True)
                          for i, (t, r) in enumerate(zip(self.tasks, self.results))]
        for p in self.processes:
            p.start()

    def batch(self, stage, number, coming=()):
        """coming: the batches that will be asked for next, as far as is known. What was made ahead for nothing is dropped."""
        if not self.count:
            return self.feed.batch(stage, number)
        while self.asked and self.asked[0][0] != (stage, number):
            self.take()
        for task in [(stage, number), *coming]:
            if len(self.asked) >= self.count * self.depth:
                break
            if all(task != a for a, _ in self.asked):
                self.tasks[self.turn].put(task)
                self.asked.append((task, self.turn))
                self.turn = (self.turn + 1) % self.count
        return self.take()

    def take(self):
        _, worker = self.asked.popleft()
        while True:
            try:
                return self.results[worker].get(timeout=60)
            except queue.Empty:
                if not self.processes[worker].is_alive():
                    raise SystemExit("a data process is gone (killed, or out of memory); the last checkpoint is sound, run the same command again")

    def close(self):
        for t in self.tasks:
            t.put(None)
        for p in self.processes:
            p.terminate() if p.is_alive() and self.asked else None
            p.join(2)
            p.kill() if p.is_alive() else None
