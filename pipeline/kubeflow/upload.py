"""The pipeline, its version and the experiment on the server, created if they are missing."""

import tempfile
from pathlib import Path

from kfp.client import Client
from kfp_server_api import V2beta1Experiment, V2beta1Pipeline

from pipeline.kubeflow import client as kubeflow
from pipeline.kubeflow.connection import ConnectionConfig
from pipeline.package import Package


def upload(client: Client, connection: ConnectionConfig, package: Package) -> tuple[str, str, bool]:
    """Upload the package, unless its version exists.

    Returns:
        Pipeline ID, version ID, and whether the version is new.
    """
    pipelines = client.pipelines
    namespace = kubeflow.in_namespace(connection)

    def find_pipeline():
        listed = pipelines.pipeline_service_list_pipelines
        return kubeflow.named(listed, "pipelines", package.name, **namespace)

    def create_pipeline():
        # Not with upload_pipeline, which names the first version like the pipeline.
        return pipelines.pipeline_service_create_pipeline(
            pipeline=V2beta1Pipeline(
                name=package.name,
                display_name=package.name,
                description=package.description,
                **namespace,
            )
        )

    pipeline, _ = kubeflow.ensure(find_pipeline, create_pipeline)

    def find_version():
        listed = pipelines.pipeline_service_list_pipeline_versions
        where = {"pipeline_id": pipeline.pipeline_id}
        return kubeflow.named(listed, "pipeline_versions", package.version, **where)

    def create_version():
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, "pipeline.yaml")
            file.write_text(package.text)
            return client.pipeline_uploads.upload_pipeline_version(
                str(file),
                name=package.version,
                pipelineid=pipeline.pipeline_id,
                # The UI shows it below the pipeline's own description.
                description=f"Images: {', '.join(package.images)}",
            )

    version, is_new = kubeflow.ensure(find_version, create_version)
    return pipeline.pipeline_id, version.pipeline_version_id, is_new


def experiment(client: Client, connection: ConnectionConfig, name: str) -> str:
    """Return the ID of the experiment of this name."""
    experiments = client.experiments
    namespace = kubeflow.in_namespace(connection)

    def find():
        listed = experiments.experiment_service_list_experiments
        return kubeflow.named(listed, "experiments", name, **namespace)

    def create():
        return experiments.experiment_service_create_experiment(
            experiment=V2beta1Experiment(display_name=name, **namespace)
        )

    return kubeflow.ensure(find, create)[0].experiment_id
