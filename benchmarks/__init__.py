"""What relprop costs, measured beside gradient x input and beside other libraries.

    python -m benchmarks                     every case of this device, the result in benchmarks/results/
    python -m benchmarks --case vgg16        one case
    python -m benchmarks --smoke             the smallest case, few rounds: does the command work?
    python -m benchmarks --scaling           cost against batch, pixels and depth; memory with checkpointing
    python -m benchmarks --profile           where the time goes, operator by operator
    python -m benchmarks --device cuda --dtype bf16

The modules, bottom up: `presets` (rule sets by name), `cases` (models, inputs, targets, goals),
`contenders` (who takes part, one file each), `machine` (what it ran on), `worker` (one contender on one
problem, in a fresh process where needed), `timing`, `memory`, `table` (results and their file),
`scaling`, `profiling`.

How it is measured. All contenders of a case take turns, A B C A B C, in one process with one model each
and the same weights and input; a contender that patches classes sits in a process of its own and takes
its turn there. A time is the median over the rounds after warm-up; a ratio is the median over the rounds
of the time divided by gradient x input's in the same round. Peak memory is what one call adds to the
resident set of a fresh process. What a library lets its users do once (attach hooks, merge norms, patch
classes) is done once and not timed.
"""
