"""WHAT IS ASKED OF US? Typed, frozen settings from file, environment and command line.

Everything but :mod:`~instance_manager.settings.files` is pure. Models come from here; loading
from :mod:`~instance_manager.settings.files`, whose imports a reader of models need not pay.
"""

from instance_manager.settings.addresses import Address, parse_address
from instance_manager.settings.checks import Check
from instance_manager.settings.models import (
    BootstrapSettings,
    ConfigurationSettings,
    ControlSettings,
    DatabaseExtensionSettings,
    DatabaseSettings,
    ExtensionSettings,
    HealthSettings,
    InstanceSettings,
    LogSettings,
    PostgresSettings,
    RestartSettings,
    Settings,
    ShutdownSettings,
    TlsSettings,
    VariableSettings,
    VolumeSettings,
)
from instance_manager.settings.variables import is_reserved_variable, variable_problem

__all__ = [
    "Address",
    "BootstrapSettings",
    "Check",
    "ConfigurationSettings",
    "ControlSettings",
    "DatabaseExtensionSettings",
    "DatabaseSettings",
    "ExtensionSettings",
    "HealthSettings",
    "InstanceSettings",
    "LogSettings",
    "PostgresSettings",
    "RestartSettings",
    "Settings",
    "ShutdownSettings",
    "TlsSettings",
    "VariableSettings",
    "VolumeSettings",
    "is_reserved_variable",
    "parse_address",
    "variable_problem",
]
