"""The public names, in one list: for the lazy imports of ``__init__.py`` and for type checkers."""

from . import (
    datasets as datasets,
    deployment as deployment,
    estimators as estimators,
    figures as figures,
    logs as logs,
    nuisances as nuisances,
    policy as policy,
    protocol as protocol,
    strata as strata,
    value as value,
)
from .datasets import (
    CATALOG as CATALOG,
    LabelledPairs as LabelledPairs,
    Ratings as Ratings,
    Study as Study,
    load_ratings as load_ratings,
    load_study as load_study,
    semisynthetic as semisynthetic,
    simulated as simulated,
    simulated_campaign as simulated_campaign,
    simulated_features as simulated_features,
)
from .deployment.auto_policy import AutoPolicy as AutoPolicy
from .deployment.batch_scoring import score_parquet as score_parquet
from .deployment.model_selection import (
    cell_calibration as cell_calibration,
    compare_models as compare_models,
    policy_value_scorer as policy_value_scorer,
)
from .deployment.storage import load as load, save as save
from .errors import (
    InputError as InputError,
    LogError as LogError,
    ModelFileError as ModelFileError,
    RatingsError as RatingsError,
    ResultsError as ResultsError,
    StudyError as StudyError,
    UnitWarning as UnitWarning,
    UnknownNameError as UnknownNameError,
)
from .estimators.base import LogEstimator as LogEstimator, StrataEstimator as StrataEstimator
from .estimators.baselines import (
    DR as DR,
    IPS as IPS,
    OR as OR,
    DRNet as DRNet,
    IPSNet as IPSNet,
    MomentEstimator as MomentEstimator,
    Naive as Naive,
    ORNet as ORNet,
)
from .estimators.cells.boosted_cells import BoostedConfig as BoostedConfig
from .estimators.cfmtl import CFMTL as CFMTL
from .estimators.cfmtl_v1 import CFMTLv1 as CFMTLv1
from .estimators.counterfactual import CFDR as CFDR, CFIPS as CFIPS, CFOR as CFOR
from .estimators.effects import (
    BART as BART,
    BCF as BCF,
    BNN as BNN,
    CFR as CFR,
    CausalForest as CausalForest,
    DESCN as DESCN,
    DragonNet as DragonNet,
    EffectEstimator as EffectEstimator,
    PerfectMatch as PerfectMatch,
    TARNet as TARNet,
)
from .estimators.entire_space.escm2 import ESCM2 as ESCM2
from .estimators.entire_space.esmm import ESMM as ESMM
from .estimators.entire_space.mmoe import MMoE as MMoE
from .estimators.entire_space.multi_ipw import MultiIPW as MultiIPW
from .estimators.latent_strata import (
    LatentStrata as LatentStrata,
    choose_latent_config as choose_latent_config,
)
from .estimators.pair_features import PairEncoder as PairEncoder
from .estimators.meta_learners import DRLearner as DRLearner, XLearner as XLearner
from .experiments.methods import METHODS as METHODS, fit_methods as fit_methods
from .experiments.paper.fit_variants import fit_variants as fit_variants
from .experiments.studies import StudySettings as StudySettings
from .experiments.paper.tables import table4 as table4, table5_6 as table5_6
from .logs.encoding import FrameEncoder as FrameEncoder
from .logs.incentive_log import IncentiveLog as IncentiveLog
from .logs.parquet_log import ParquetLog as ParquetLog
from .logs.schema import InputSchema as InputSchema
from .models.config import FitConfig as FitConfig
from .models.feature_networks import FeatureConfig as FeatureConfig
from .models.latent_networks import LatentConfig as LatentConfig
from .models.losses import CellWeights as CellWeights
from .nuisances.amounts import winsorise as winsorise
from .nuisances.pair_classifier import PairClassifier as PairClassifier
from .nuisances.pair_nuisances import PairNuisances as PairNuisances
from .policy.allocation import allocate as allocate, threshold_policy as threshold_policy
from .policy.arms import allocate_arms as allocate_arms
from .policy.rewards import (
    SCENARIOS as SCENARIOS,
    OutcomeCounts as OutcomeCounts,
    count_outcomes as count_outcomes,
    expected_reward as expected_reward,
    expected_spend as expected_spend,
    stratum_rewards as stratum_rewards,
)
from .protocol import PAPER as PAPER, Protocol as Protocol
from .runtime.fit_cache import FitCache as FitCache
from .runtime.registry import storable as storable
from .strata import CELLS as CELLS, STRATA as STRATA
from .value import (
    BudgetCurve as BudgetCurve,
    Estimate as Estimate,
    LogNuisances as LogNuisances,
    PolicyValue as PolicyValue,
    UnitScores as UnitScores,
    budget_curve as budget_curve,
    budget_curve_difference as budget_curve_difference,
    crossfit as crossfit,
    policy_value as policy_value,
    policy_value_difference as policy_value_difference,
    strata_shares as strata_shares,
    unit_scores as unit_scores,
)

__version__: str
