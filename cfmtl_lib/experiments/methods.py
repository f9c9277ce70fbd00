"""Methods by their names in the tables, and fits of several methods to one study."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

from cfmtl_lib.checks import check_seed
from cfmtl_lib.datasets.study import Study
from cfmtl_lib.deployment.serialisation import FROM_SCHEMA
from cfmtl_lib.errors import InputError, check_choice
from cfmtl_lib.estimators.base import LogEstimator
from cfmtl_lib.estimators.baselines import MomentEstimator, ORNet
from cfmtl_lib.estimators.cells.pair_cells import Pretrained
from cfmtl_lib.estimators.cfmtl import CFMTL
from cfmtl_lib.estimators.cfmtl_v1 import CFMTLv1
from cfmtl_lib.estimators.effects.base import EffectEstimator
from cfmtl_lib.estimators.entire_space.base import EntireSpaceEstimator
from cfmtl_lib.estimators.latent_strata import LatentStrata
from cfmtl_lib.experiments.paper.reported import reported_table4
from cfmtl_lib.models.config import FitConfig
from cfmtl_lib.models.engines import engine_of_pairs
from cfmtl_lib.nuisances.pair_nuisances import PairNuisances
from cfmtl_lib.protocol import PAPER
from cfmtl_lib.runtime.devices import resolve_device
from cfmtl_lib.runtime.fit_cache import FitCache, content_hash
from cfmtl_lib.runtime.registry import ESTIMATORS, key_of
from cfmtl_lib.runtime.threads import run_parallel

PRODUCT_FORM = {"cell_form": "product"}
"""Form of the cells in the authors' code."""

AS_PUBLISHED = dict.fromkeys(("CF-OR", "CF-IPS", "CF-DR"), PRODUCT_FORM)
"""Options of published methods that differ from the defaults of their classes."""


def factory_of(name: str) -> Callable[..., LogEstimator]:
    """Find the function that makes a method, by the method's name.

    The name is one of :func:`known_methods`.

    Raises
    ------
    UnknownNameError
        If the name is unknown.
    """
    if name in ABLATIONS:
        return ABLATIONS[name].estimator
    named = _registered()
    check_choice("method", name, known_methods())
    if name in VARIANTS:
        method, options = VARIANTS[name]
        return partial(named[method], **options)
    return partial(named[name], **AS_PUBLISHED.get(name, {}))


def known_methods() -> list[str]:
    """List the names of methods: registered estimators, :data:`VARIANTS` and rows of Tables 5 and 6."""
    return [*_registered(), *VARIANTS, *ABLATIONS]


def related_methods() -> list[str]:
    """List the learners that stand beside the paper's methods, with every variant.

    These are the learners of effects, the entire-space models and latent strata of pairs.

    Examples
    --------
    >>> set(related_methods()) <= set(known_methods()) - set(METHODS)
    True
    """
    of_library = {kind.method for key, kind in ESTIMATORS.items() if "." not in key}
    kinds = tuple(RELATED.values())
    named = [name for name, kind in _registered().items() if issubclass(kind, kinds) and name in of_library]
    return [*named, *(name for name, (method, _) in VARIANTS.items() if method in named)]


def _registered() -> dict[str, Any]:
    return {kind.method: kind for kind in ESTIMATORS.values() if kind.method}


RELATED: dict[str, type[LogEstimator]] = {
    "effects": EffectEstimator,
    "entire space": EntireSpaceEstimator,
    "latent strata": LatentStrata,
}
"""Kinds of learners that stand beside the paper's methods, with the base class of each."""

VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "latent strata (given response)": ("latent strata", {"assignment": "given-response"}),
}
"""Methods under another assumption than the default of their class: the class's name, and the options."""


TWINS = {"CF-OR": "OR", "CF-IPS": "IPS", "CF-DR": "DR"}
"""Each counterfactual method with the CATE method that is fitted to the same moments."""


class Ablation(NamedTuple):
    """Row of Tables 5 and 6: a method, and the loss terms of the untreated cells that it keeps."""

    method: str
    keeps_001: bool
    keeps_000: bool

    @property
    def name(self) -> str:
        """Name the row as printed: "CF-MTL w/o L_001 L_000".

        Examples
        --------
        >>> Ablation("CF-MTL", keeps_001=True, keeps_000=False).name
        'CF-MTL w/o L_000'
        """
        left_out = [term for term, kept in (("L_001", self.keeps_001), ("L_000", self.keeps_000)) if not kept]
        return " ".join([self.method, *(["w/o", *left_out] if left_out else [])])

    def estimator(self, **options: object) -> CFMTL:
        """Make an estimator in which the terms left out have weight 0."""
        kind, weights = {
            "CF-MTL": (CFMTL, PAPER.joint_weights),
            "CF-MTL-v1": (CFMTLv1, PAPER.two_stage_weights),
        }[self.method]
        left_out = {
            cell: 0.0 for cell, kept in (("t0c0y1", self.keeps_001), ("t0c0y0", self.keeps_000)) if not kept
        }
        return kind(weights=replace(weights, **left_out), **options)


ABLATIONS = {
    row.name: row
    for method in ("CF-MTL", "CF-MTL-v1")
    for row in (
        Ablation(method, keeps_001, keeps_000)
        for keeps_001, keeps_000 in ((False, False), (True, False), (False, True), (True, True))
    )
}
"""The rows of Tables 5 and 6 in the order of print, for both forms of CF-MTL; the fourth leaves out none."""


METHODS = {name: factory_of(name) for name in dict.fromkeys(reported_table4()["method"])}
"""The nine methods of Table 4, in its order."""

NET_METHODS = {
    kind.method: factory_of(kind.method)
    for key, kind in ESTIMATORS.items()
    if kind.method and "." not in key and issubclass(kind, ORNet)
}
"""Uplift models that charge the cost on take-up. Not in the paper."""


def estimator(name: str, *, device: str = "auto", seed: int = 0, **fit_settings: Any) -> LogEstimator:
    """Make an unfitted estimator with the published settings.

    Parameters
    ----------
    name : str
        One of :func:`known_methods`; an estimator class is known by its
        :attr:`~cfmtl_lib.estimators.base.LogEstimator.method`.
    device : str
    seed : int
    **fit_settings
        Settings to change in every :class:`~cfmtl_lib.models.config.FitConfig` of the estimator, such as
        ``parametrisation="additive"``.

    Raises
    ------
    UnknownNameError
        If the name is unknown.
    InputError
        If ``fit_settings`` are given and the estimator has no FitConfig.
    """
    factory = factory_of(name)
    model = factory()
    given = {"device": device, "seed": check_seed(seed)}
    model.set_params(**{key: value for key, value in given.items() if key in model.get_params(deep=False)})
    if fit_settings and isinstance(model, CFMTL) and model.config is None:
        model.set_params(config=PAPER.joint)
    configs = {
        key: replace(value, **fit_settings)
        for key, value in model.get_params(deep=False).items()
        if isinstance(value, FitConfig)
    }
    if fit_settings and not configs:
        raise InputError(
            f"settings of {name}",
            expected="none, as it has no FitConfig",
            found=", ".join(fit_settings),
        )
    return model.set_params(**configs)


def fit_methods(
    study: Study,
    names: Sequence[str],
    *,
    device: str = "auto",
    seed: int = 0,
    n_jobs: int = 1,
    cache: FitCache | None = None,
    **fit_settings: Any,
) -> dict[str, LogEstimator]:
    """Fit methods to the training log of a study; what they have in common is fitted once.

    Parameters
    ----------
    study : Study
    names : sequence of str
        Names of the methods; see :func:`estimator`.
    device : str
    seed : int
    n_jobs : int
        Number of fits side by side, each on one thread. The result does not depend on it.
    cache : FitCache, optional
        Cache of fits; no fit is stored if left out.
    **fit_settings
        Settings to change, as in :func:`estimator`.

    Returns
    -------
    dict of str to fitted estimator
        Estimators by name, in the order of ``names``.

    Raises
    ------
    UnknownNameError
        If a name is unknown.
    """
    models = {name: estimator(name, device=device, seed=seed, **fit_settings) for name in names}
    of_moments = [model for model in models.values() if isinstance(model, MomentEstimator)]
    v1 = [model for model in models.values() if isinstance(model, CFMTLv1)]
    in_one_stage = CFMTL | LatentStrata
    joint = [model for model in models.values() if isinstance(model, in_one_stage) and model not in v1]
    others = [model for model in models.values() if not isinstance(model, MomentEstimator | in_one_stage)]
    # The long fits first, so that they do not end alone.
    jobs: list[Callable[[], None]] = [
        partial(fit_two_stage, v1, study, cache),
        *(partial(fit_joint, model, study, cache) for model in joint),
        *(partial(model.fit, study.train) for model in others),
        partial(_fit_moments, of_moments, study, cache),
    ]
    run_parallel(jobs, n_jobs)
    return models


def _fit_moments(models: Iterable[MomentEstimator], study: Study, cache: FitCache | None) -> None:
    shared: dict[object, PairNuisances] = {}
    for model in models:
        if model.outcome is not None:  # a learner of its own
            model.fit(study.train)
            continue
        settings = (model.config, tuple(model.propensity_clip), model.device, model.seed)
        if settings not in shared:
            shared[settings] = PairNuisances(
                study.train,
                config=model.config,
                propensity_clip=model.propensity_clip,
                device=model.device,
                seed=model.seed,
                cache=cache,
            )
        model.fit(study.train, nuisances=shared[settings])


def fit_joint(model: CFMTL | LatentStrata, study: Study, cache: FitCache | None) -> None:
    """Fit one CF-MTL, or latent strata, or give it the networks from the cache."""
    _fit_cells(model, study, cache, lambda fresh: fresh.fit(study.train))


def fit_two_stage(models: Iterable[CFMTLv1], study: Study, cache: FitCache | None) -> None:
    """Fit several CF-MTL-v1 that differ after the first stage only; that stage is fitted once."""
    first: list[Pretrained] = []

    def fit(fresh: CFMTLv1) -> None:
        first[:] = first or [fresh.pretrain(study.train)]
        fresh.fit(study.train, pretrained=first[0])

    for model in models:
        _fit_cells(model, study, cache, fit)


def _fit_cells(model: Any, study: Study, cache: FitCache | None, fit: Callable) -> None:
    key, log = key_of(type(model)), study.train
    if cache is None or "." in key:  # the cache knows the code of the library only
        fit(model)
        return

    def make() -> dict[str, Any]:
        fresh = copy.copy(model)
        fit(fresh)
        learnt = {name: value for name, value in vars(fresh).items() if name.endswith("_")}
        if cache.keeps and "network_" in learnt:
            learnt["network_"] = learnt["network_"].compact()
        return {name: value for name, value in learnt.items() if name not in FROM_SCHEMA}

    settings = model.get_params(deep=False)
    del settings["progress"]
    del settings["device"]
    settings.pop("n_jobs", None)
    configs = [value for value in (PAPER.joint, *settings.values()) if isinstance(value, FitConfig)]
    learnt = cache(
        make,
        fit=key,
        settings=sorted(settings.items()),
        device=resolve_device(model.device).type,
        engine=[engine_of_pairs(config, resolve_device(model.device)) for config in configs],
        data=content_hash(log.x, log.t, log.c, log.y, log.pair_space),
    )
    for name, value in learnt.items():
        setattr(model, name, value)
    model.remember_input(log)
