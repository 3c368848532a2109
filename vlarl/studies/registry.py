"""The studies by name."""

from vlarl.errors import unknown_name
from vlarl.studies import ablations, algorithms, curriculum, libero_40, process_reward, robustness, scaling
from vlarl.studies.base import Study

STUDIES: dict[str, Study] = {
    module.STUDY.name: module.STUDY
    for module in (libero_40, ablations, algorithms, curriculum, process_reward, robustness, scaling)
}


def find_study(name: str) -> Study:
    """The study of that name.

    Raises:
        UserError: there is none; the nearest is named.
    """
    if name not in STUDIES:
        raise unknown_name("study", name, STUDIES)
    return STUDIES[name]
