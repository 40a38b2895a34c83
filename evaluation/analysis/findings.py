"""What the report and the terminal's summary both say of a run, computed once for both."""

from dataclasses import dataclass, replace

from evaluation.analysis import summary, throughput, verdicts
from evaluation.analysis.summary import Group
from evaluation.analysis.throughput import LoadLevel
from evaluation.analysis.verdicts import ProviderComparison
from evaluation.tables import Run, shorten
from streaming.escaping import Escape


@dataclass(frozen=True, slots=True)
class Findings:
    """The load levels of a run, its groups, and the comparisons that make claims, with names as in the tables."""

    levels: list[LoadLevel]
    groups: list[Group]
    comparisons: list[ProviderComparison]

    @classmethod
    def from_run(cls, run: Run) -> "Findings":
        """Compute the findings; a replay has only groups, since it asked nobody."""
        comparisons = [] if run.is_replay else verdicts.compare_providers(run)
        return cls(throughput.load_levels(run), summary.groups(run), comparisons)

    def escape(self, escape: Escape) -> "Findings":
        """Return the findings with the names of groups and comparisons shortened and escaped for an output format."""
        groups = [
            replace(
                group,
                name=escape(shorten(group.name)),
                strategy=escape(shorten(group.strategy)),
                token_sources=tuple(escape(shorten(source)) for source in group.token_sources),
            )
            for group in self.groups
        ]
        comparisons = [replace(one, a=escape(shorten(one.a)), b=escape(shorten(one.b))) for one in self.comparisons]
        return replace(self, groups=groups, comparisons=comparisons)
