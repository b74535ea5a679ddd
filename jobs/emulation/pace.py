"""How fast the devices run: each rank's share of a core, and links in the same proportion.

A rank with a share `q` of a core, emulating a core that is `v` times as fast as this machine's,
takes `v / q` measured seconds for what a device computes in one. Links are slowed down, or
sped up, by the same factor, so that computing and communicating keep the device's ratio.
"""

import math
from dataclasses import dataclass

from emulation import Refusal

# Ranks do not get all of a crowded core: mpirun and the kernel's network need some of it.
USABLE = 0.9

# A rank that has used up its share sleeps to the end of the period, so short ones distort least.
_SHORTEST_PERIOD_US = 10_000
_LONGEST_PERIOD_US = 1_000_000
_SMALLEST_QUOTA_US = 1_000


@dataclass(frozen=True)
class Pace:
    """The speed of all ranks and links.

    Attributes
    ----------
    share : of a core that each rank gets; 1.0 means a core of its own, without any quota.
    core_speed : of an emulated core, relative to this machine's.
    """

    share: float
    core_speed: float

    @property
    def device_seconds(self) -> float:
        """Seconds on the emulated devices for each measured second."""
        return self.share / self.core_speed

    @property
    def limited(self) -> bool:
        """Whether ranks share cores."""
        return self.share < 1

    def link_rate(self, rate: float) -> float:
        """The rate that a link is given here, where the devices' links have `rate`."""
        return rate * self.device_seconds

    @property
    def period_us(self) -> int:
        """Microseconds in which a rank may run for `quota_us`."""
        return max(_SHORTEST_PERIOD_US, math.ceil(_SMALLEST_QUOTA_US / self.share))

    @property
    def quota_us(self) -> int:
        """Microseconds of each period that a rank may run for.

        As many may be carried over from earlier periods in which it was waiting: the most that
        the kernel allows.
        """
        return round(self.share * self.period_us)


def choose_pace(ranks: int, cores: int, core_speed: float, share: float | None) -> Pace:
    """The largest share of a core that `ranks` ranks on `cores` cores can all have.

    Ranks are numbered to cores in turn and stay there. A `share` that is given is taken
    instead; a larger one than fits meets `Refusal`, for the ranks would not get it.
    """
    crowd = math.ceil(ranks / cores)
    largest = 1.0 if crowd == 1 else USABLE / crowd
    if share is not None and share > largest:
        raise Refusal(
            f"{ranks} ranks on {cores} cores get at most {largest:.4g} of a core each, "
            f"but --share asks for {share:.4g}"
        )
    pace = Pace(largest if share is None else share, core_speed)
    if pace.period_us > _LONGEST_PERIOD_US:
        raise Refusal(f"{pace.share:.4g} of a core is less than the kernel's quotas can express")
    return pace
