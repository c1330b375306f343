"""Where models come from. This tree is offline: they come from local folders."""

import os
from enum import Enum

from funasr_detach import AutoModel


class ModelSource(Enum):
    AUTO = "auto"
    LOCAL = "local"
    MODELSCOPE = "modelscope"
    HUGGINGFACE = "huggingface"


class UnifiedModelLoader:
    def load_funasr_model(
        self, repo_path: str, model_path: str, source: ModelSource = ModelSource.AUTO, **kwargs
    ) -> AutoModel:
        """Load the model in the folder `model_path` of the encoder folder `repo_path`.

        kwargs go to AutoModel. The encoder folder is the `repo_path` of the result.
        """
        if source not in (ModelSource.AUTO, ModelSource.LOCAL):
            raise ValueError(f"{source} needs a network; this tree loads local folders only")
        folder = os.path.join(repo_path, model_path)
        if not os.path.isdir(folder):
            raise FileNotFoundError(f"no model folder {folder}; make_model.py builds one")
        return AutoModel(model=folder, repo_path=repo_path, **kwargs)


model_loader = UnifiedModelLoader()
