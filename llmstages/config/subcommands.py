"""The subcommands, and the schema that each one's config follows."""

from llmstages.config.stages import (
    CollectConfig,
    FinetuneClassifyConfig,
    FinetuneInstructConfig,
    PlanConfig,
    PretrainConfig,
)
from llmstages.config.uses import (
    ChatConfig,
    CompareConfig,
    DoctorConfig,
    EvaluateCheckpointConfig,
    ExportConfig,
    GenerateConfig,
    InspectConfig,
    PageConfig,
    PredictConfig,
    ServeConfig,
)

SUBCOMMANDS: dict[str, type] = {
    "collect": CollectConfig,
    "pretrain": PretrainConfig,
    "plan": PlanConfig,
    "finetune-instruct": FinetuneInstructConfig,
    "finetune-classify": FinetuneClassifyConfig,
    "generate": GenerateConfig,
    "chat": ChatConfig,
    "serve": ServeConfig,
    "predict": PredictConfig,
    "evaluate": EvaluateCheckpointConfig,
    "compare": CompareConfig,
    "inspect": InspectConfig,
    "report": PageConfig,
    "export": ExportConfig,
    "doctor": DoctorConfig,
}
