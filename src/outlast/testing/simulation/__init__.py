"""The engine, simulated: several workers over one store, under faults that a seed decides.

Time is virtual and the order of events is the seed's, so that a seed which breaks an
invariant breaks it again whenever it is run:

    python -m outlast.testing.simulation --seed 4711
"""

from outlast.testing.simulation.history import InvariantError as InvariantError
from outlast.testing.simulation.simulate import simulate as simulate
from outlast.testing.simulation.world import Report as Report
