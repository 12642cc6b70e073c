"""Making services out of the names that the command line gives them."""

import importlib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from outlast.cli.exit_codes import ExitCode
from outlast.cli.failure import Failure
from outlast.domain.errors import OutlastError


def load_service(reference: str, environment: Mapping[str, str]) -> object:
    """Return the service that `module:Class` stands for; raise Failure if there is none.

    It is made by `Class.from_environment(environment)` if the class has that, else by
    `Class()`. Modules in the working directory are found too.
    """
    module_name, separator, class_name = reference.partition(":")
    if not (module_name and separator and class_name):
        raise Failure(
            ExitCode.USAGE,
            f"service {reference!r} is not of the form module:Class, such as shop.orders:OrderService",
        )
    if module_name.endswith(".py"):
        module_name = module_name.removesuffix(".py").strip("./").replace("/", ".")
        raise Failure(
            ExitCode.USAGE,
            f"service {reference!r} names a file: give its module, {module_name}:{class_name}",
        )
    service_class = _load_class(reference, module_name, class_name)
    try:
        if hasattr(service_class, "from_environment"):
            service: object = service_class.from_environment(environment)
        else:
            service = service_class()
    except OutlastError as error:
        raise Failure(ExitCode.CANNOT_SERVE, f"service {reference}: {error}") from error
    except Exception as error:
        raise _broken(f"service {reference} cannot be made", error) from error
    return service


def _load_class(reference: str, module_name: str, class_name: str) -> Any:
    working_directory = str(Path.cwd())
    if working_directory not in sys.path:
        sys.path.insert(0, working_directory)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise _unimportable(module_name, reference, error) from error
        raise Failure(
            ExitCode.CANNOT_SERVE,
            f"service {reference}: there is no module {error.name!r}",
            "install it, or start the server in the directory that it is in",
        ) from error
    except Exception as error:
        raise _unimportable(module_name, reference, error) from error
    service_class = getattr(module, class_name, None)
    if isinstance(service_class, type):
        return service_class
    classes = [
        name
        for name, value in vars(module).items()
        if isinstance(value, type) and value.__module__ == module_name
    ]
    raise Failure(
        ExitCode.CANNOT_SERVE,
        f"service {reference}: there is no class {class_name!r} in {module_name}",
        f"it has: {', '.join(classes)}" if classes else "it has no classes",
    )


def _unimportable(module_name: str, reference: str, error: Exception) -> Failure:
    """Say that a module is broken: wherever it is, the class that was asked for may be well."""
    what = f"module {module_name} cannot be imported"
    if isinstance(error, OutlastError):  # it says itself where
        return Failure(ExitCode.CANNOT_SERVE, f"{what}, for service {reference}: {error}")
    return _broken(f"{what}, for service {reference}", error)


def _broken(what: str, error: Exception) -> Failure:
    return Failure(
        ExitCode.CANNOT_SERVE,
        f"{what}: {type(error).__name__}: {error}",
        "see where with --log-level debug",
    )
