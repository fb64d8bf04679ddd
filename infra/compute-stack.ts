// The machines: network, image of the worker, fleets and job definitions. Nothing here runs, or costs, while no run
// does; with a NAT gateway or interface endpoints the network alone does.
import { CfnOutput, RemovalPolicy, Stack, type StackProps } from "aws-cdk-lib";
import { EcsMachineImageType } from "aws-cdk-lib/aws-batch";
import { DockerImageAsset, Platform } from "aws-cdk-lib/aws-ecr-assets";
import { ContainerImage } from "aws-cdk-lib/aws-ecs";
import { Role, ServicePrincipal } from "aws-cdk-lib/aws-iam";
import { LogGroup } from "aws-cdk-lib/aws-logs";
import type { Construct } from "constructs";
import type { Environment } from "./config.ts";
import { Fleet } from "./fleet.ts";
import { createNetwork } from "./network.ts";
import { WorkerJob } from "./worker-job.ts";
import { arnOf, type YardPlace } from "./yard-access.ts";

export type ComputeProps = StackProps & {
  readonly environment: Environment;
  readonly place: YardPlace;
  /** Folder with the Dockerfile and what it copies, made by tools/bundle-worker.ts. */
  readonly imageContext: string;
};

/**
 * What the state machine needs of the fleets, and who watches them: by fixed names, not as values that other stacks
 * import, or CloudFormation would refuse to take a queue away while they still import it.
 */
export type Compute = {
  readonly queueArns: { readonly cpu: string; readonly gpu?: string };
  readonly jobs: { readonly worker: WorkerJob; readonly sharder: WorkerJob; readonly gpu?: WorkerJob };
  readonly logGroupName: string;
};

export class ComputeStack extends Stack {
  readonly compute: Compute;

  constructor(scope: Construct, id: string, props: ComputeProps) {
    super(scope, id, props);
    const { environment, place } = props;
    const { cpu, gpu, name } = environment;
    const network = createNetwork(this, environment);
    const logGroupName = `/mergeyard/${name}/workers`;
    const logGroup = new LogGroup(this, "WorkerLogs", {
      logGroupName,
      retention: environment.logDays,
      removalPolicy: RemovalPolicy.DESTROY,
    });
    const executionRole = new Role(this, "StartRole", {
      assumedBy: new ServicePrincipal("ecs-tasks.amazonaws.com"),
      description: `Mergeyard ${name}: fetches the worker's image and opens its log`,
    });
    const parts = { environment, place, executionRole, logGroup };
    const shared = { network, runnableMinutes: environment.runnableMinutes };
    const image = this.#image(props.imageContext, cpu.architecture);
    const queueArn = (queueName: string): string => arnOf(this, "batch", "job-queue", queueName);
    const cpuQueue = `mergeyard-${name}-cpu`;
    const fleet = new Fleet(this, "Cpu", {
      ...shared,
      queueName: cpuQueue,
      instances: cpu.instances,
      imageType: EcsMachineImageType.ECS_AL2023,
      maxVcpus: cpu.maxVcpus,
      spot: cpu.spot,
    });
    const job = (id: string, role: "worker" | "sharder") =>
      new WorkerJob(this, id, { ...parts, name: `mergeyard-${name}-${role}`, role, image, size: cpu.job });
    const jobs = { worker: job("Worker", "worker"), sharder: job("Sharder", "sharder") };
    let gpuJob: WorkerJob | undefined;
    let gpuQueueArn: string | undefined;
    if (gpu !== null) {
      const gpuQueue = `mergeyard-${name}-gpu`;
      const gpuFleet = new Fleet(this, "Gpu", {
        ...shared,
        queueName: gpuQueue,
        instances: gpu.instances,
        imageType: EcsMachineImageType.ECS_AL2023_NVIDIA,
        maxVcpus: gpu.maxVcpus,
        spot: gpu.spot,
      });
      const gpuImage = this.#image(props.imageContext, "x86_64");
      const names = { name: `mergeyard-${name}-gpu-worker`, role: "worker" } as const;
      gpuJob = new WorkerJob(this, "GpuWorker", { ...parts, ...names, image: gpuImage, size: gpu.job });
      gpuQueueArn = queueArn(gpuQueue);
      new CfnOutput(this, "GpuQueueArn", { value: gpuFleet.queue.jobQueueArn });
    }
    const queueArns = { cpu: queueArn(cpuQueue), ...(gpuQueueArn === undefined ? {} : { gpu: gpuQueueArn }) };
    this.compute = { queueArns, jobs: gpuJob === undefined ? jobs : { ...jobs, gpu: gpuJob }, logGroupName };
    new CfnOutput(this, "CpuQueueArn", { value: fleet.queue.jobQueueArn });
  }

  /** The worker's image for an architecture; built when the stack is deployed, once for each. */
  #image(directory: string, architecture: "x86_64" | "arm64"): ContainerImage {
    const id = `Image-${architecture}`;
    const existing = this.node.tryFindChild(id);
    if (existing instanceof DockerImageAsset) return ContainerImage.fromDockerImageAsset(existing);
    const platform = architecture === "arm64" ? Platform.LINUX_ARM64 : Platform.LINUX_AMD64;
    const asset = new DockerImageAsset(this, id, { directory, platform });
    return ContainerImage.fromDockerImageAsset(asset);
  }
}
