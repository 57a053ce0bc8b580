"""One Spark session with settings under which equal rows give equal files; embedded unless a master is named."""

import atexit
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from medloom.pipelines.java import ensure_java
from medloom.schemas.errors import ConfigError

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

LOGGING = Path(__file__).with_name("log4j2.properties").as_uri()
ALWAYS = {
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.execution.arrow.pyspark.enabled": "true",
    "spark.sql.parquet.compression.codec": "zstd",
    "spark.sql.parquet.datetimeRebaseModeInWrite": "CORRECTED",
    "spark.sql.parquet.outputTimestampType": "TIMESTAMP_MICROS",
    "spark.hadoop.parquet.compression.codec.zstd.level": "3",
    "spark.hadoop.mapreduce.fileoutputcommitter.marksuccessfuljobs": "false",
    "spark.ui.showConsoleProgress": "false",
}
# A laptop or a test: no web page, no listening beyond loopback, two partitions instead of 200 for tables of a few MB.
EMBEDDED = {
    "spark.ui.enabled": "false",
    "spark.driver.bindAddress": "127.0.0.1",
    "spark.driver.host": "127.0.0.1",
    "spark.driver.memory": "2g",
    "spark.sql.shuffle.partitions": "4",
    "spark.sql.catalogImplementation": "in-memory",
    "spark.driver.extraJavaOptions": f"-Dlog4j2.configurationFile={LOGGING}",
}


@cache
def _scratch() -> str:
    """Return a folder for shuffles that only this user may open, since headers pass through it; it goes at the end."""
    folder = tempfile.mkdtemp(prefix="medloom-spark-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def session(master: str, *, name: str) -> "SparkSession":
    """Return the running session, or start one on `master` ("local[*]", "spark://…", "yarn", "k8s://…").

    On "local…" it is embedded: web page off, loopback only, 2 GiB of driver memory, four shuffle partitions. A
    cluster keeps its own settings for these.

    Raises:
        ConfigError: PySpark or Java is missing, or the session did not start.
    """
    try:
        from pyspark.errors import PySparkException
        from pyspark.sql import SparkSession
    except ImportError:
        raise ConfigError("tables are made by Spark, which is not installed: pip install 'medloom[spark]'") from None
    ensure_java()
    settings = ALWAYS | (EMBEDDED if master.startswith("local") else {})
    if master.startswith("local"):
        settings["spark.local.dir"] = _scratch()
    settings["spark.sql.warehouse.dir"] = tempfile.gettempdir()  # else an empty folder in the working directory
    builder = SparkSession.builder.master(master).appName(name)
    for key, value in settings.items():
        builder = builder.config(key, value)
    try:
        spark = builder.getOrCreate()
    except PySparkException as error:
        raise ConfigError(f"Spark did not start on {master!r}: {str(error).splitlines()[0]}") from error
    spark.sparkContext.setLogLevel("ERROR")
    return spark
