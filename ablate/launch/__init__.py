"""Running a plan on Ray Tune; the only room that imports Ray, and none of it when this package is imported.

options      what may be asked of a run, and its summary
agenda       what is left to do: the plan minus what the store holds
run          `run_plan`, and `run_evaluations` of what is trained
early        what any run needs, begun while its plan is made
evaluate     which evaluations `ablate eval` asks for;  rescore: numbers from the statistics they left
driver       the counts of a run, and when it stops
groups       which trainings share a process
queue        what waits, who works at what, what is tried again
pool         which slots there are, and whether one more is wanted
tuning       Ray Tune as the scheduler of slots, which take their work from the queue
slots        a slot working through the queue
runners      how it does so: in forked processes, or in the worker itself
forkserver   a fresh process for each piece of work, forked from a warm one;  forking: that one, from inside
work         what one process does: an attempt, or a pack of them
attempt      one attempt at one trial, journaled from start to end
cluster      the connection to Ray
view         live table, plain lines, JSON lines
"""

from ablate.launch.early import begin
from ablate.launch.options import RunOptions, RunSummary
from ablate.launch.run import run_evaluations, run_plan
from ablate.launch.view import RunView, choose_view

__all__ = ["RunOptions", "RunSummary", "RunView", "begin", "choose_view", "run_evaluations", "run_plan"]
