"""Every loss that --label_loss and every optimizer that --optimizer can name.

To add one, write its function in a file and add an entry here. This module does not import
TensorFlow.
"""

from dataclasses import dataclass

from trainer.common.flags import Flag, fraction, not_negative

# Name -> "module:function"; see losses.py for what the function takes and returns.
LOSSES = {
    "CrossEntropyLoss": "trainer.training.losses:cross_entropy",
    "HingeLoss": "trainer.training.losses:hinge",
    "SoftmaxLoss": "trainer.training.losses:softmax",
}


@dataclass(frozen=True)
class Optimizer:
    """Entry of an optimizer.

    Attributes:
        rule: "module:NAME" of an optimizers.Rule.
        flags: its hyperparameters, passed to the rule's `update` by name.
    """

    rule: str
    flags: tuple[Flag, ...] = ()


OPTIMIZERS = {
    "AdadeltaOptimizer": Optimizer("trainer.training.optimizers:ADADELTA"),
    "AdagradOptimizer": Optimizer("trainer.training.optimizers:ADAGRAD"),
    "AdamOptimizer": Optimizer("trainer.training.optimizers:ADAM"),
    "AdamWOptimizer": Optimizer(
        "trainer.training.optimizers:ADAMW",
        (Flag("weight_decay", 0.004, "AdamWOptimizer: weight decay.", not_negative),),
    ),
    "FtrlOptimizer": Optimizer("trainer.training.optimizers:FTRL"),
    "GradientDescentOptimizer": Optimizer("trainer.training.optimizers:GRADIENT_DESCENT"),
    "MomentumOptimizer": Optimizer(
        "trainer.training.optimizers:MOMENTUM",
        (Flag("momentum", 0.9, "MomentumOptimizer: momentum.", fraction),),
    ),
    "ProximalAdagradOptimizer": Optimizer("trainer.training.optimizers:PROXIMAL_ADAGRAD"),
    "ProximalGradientDescentOptimizer": Optimizer(
        "trainer.training.optimizers:PROXIMAL_GRADIENT_DESCENT"
    ),
    "RMSPropOptimizer": Optimizer("trainer.training.optimizers:RMS_PROP"),
}
