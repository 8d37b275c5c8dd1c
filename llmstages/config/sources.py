"""Where Hydra gets its files from: as by itself, but those of users are looked at first."""

from pathlib import Path

from hydra._internal.core_plugins import file_config_source
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigResult

from llmstages.config.folders import conf_dir
from llmstages.config.yaml_files import read_yaml_text


class FileConfigSource(file_config_source.FileConfigSource):
    """Hydra's own, which it knows by this name."""

    def load_config(self, config_path: str) -> ConfigResult:
        path = Path(self.path) / self._normalize_file_name(config_path)
        if path.is_file() and not path.resolve().is_relative_to(conf_dir()):
            read_yaml_text(path)
        return super().load_config(config_path)


def register_sources() -> None:
    """Have Hydra read files through `FileConfigSource`; doing it again changes nothing."""
    Plugins.instance()
    SourcesRegistry.instance().types["file"] = FileConfigSource
