"""Counterfactual strata, budgeted incentives and what they are worth.

A companion to "Who Should Be Given Incentives? Counterfactual Optimal Treatment Regimes Learning for
Recommendation" (KDD 2023, DOI 10.1145/3580305.3599550).

Examples
--------
>>> import cfmtl_lib as cf
>>> study = cf.simulated(n_users=60, n_items=50, n_pairs=2000)
>>> model = cf.CFMTL(seed=0, config=cf.FitConfig(embedding_k=8, max_epochs=300)).fit(study.train)
>>> p = model.predict_strata(study.test.x)
>>> p.shape
(600, 5)
>>> r = cf.expected_reward(p, scenario="coupon", cost=0.4)
>>> treat = cf.allocate(r, budget=0.4)
>>> int(treat.sum()) <= 240
True
"""

import lazy_loader

# Names are imported when they are first asked for: a small tool that reads a model waits for no figures.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

__version__ = "0.1.0"
