// The Batch job definition of a worker. Its retry rules are the data that the local runner judges its own workers by,
// and its name is fixed, so that whoever submits a job always gets the newest revision.
import { Duration, Size, Stack } from "aws-cdk-lib";
import {
  Action,
  EcsEc2ContainerDefinition,
  EcsJobDefinition,
  LinuxParameters,
  Reason,
  RetryStrategy,
  TmpfsMountOption,
} from "aws-cdk-lib/aws-batch";
import type { ContainerImage } from "aws-cdk-lib/aws-ecs";
import { LogDriver } from "aws-cdk-lib/aws-ecs";
import { Role, ServicePrincipal } from "aws-cdk-lib/aws-iam";
import type { LogGroup } from "aws-cdk-lib/aws-logs";
import { Construct } from "constructs";
import { engineBytes } from "../core/plan/machine.ts";
import { type ExitRule, JOB_RETRY } from "../flow/job-retry.ts";
import type { Environment } from "./config.ts";
import { arnOf, type YardPlace, type YardRole, yardStatements } from "./yard-access.ts";

export type WorkerJobProps = {
  readonly name: string;
  readonly role: YardRole;
  readonly place: YardPlace;
  readonly environment: Environment;
  readonly image: ContainerImage;
  readonly executionRole: Role;
  readonly logGroup: LogGroup;
  readonly size: { readonly vcpus: number; readonly memoryMiB: number; readonly gpus?: number };
};

/** Hours of one attempt when the submission says nothing; the state machine's submissions say their own. */
const ATTEMPT_HOURS = 48;

/** Variables by which a worker knows its size, where a submission does not say another. */
function sizeVariables(size: { readonly vcpus: number; readonly memoryMiB: number }): Record<string, string> {
  return {
    MERGEYARD_THREADS: String(size.vcpus),
    MERGEYARD_MEMORY_BYTES: String(engineBytes(size.memoryMiB)),
  };
}

export class WorkerJob extends Construct {
  readonly role: Role;
  readonly name: string;
  /** Without a revision: the newest active one. */
  readonly arn: string;

  constructor(scope: Construct, id: string, props: WorkerJobProps) {
    super(scope, id);
    const stack = Stack.of(this);
    const { size } = props;
    this.role = new Role(this, "Role", {
      assumedBy: new ServicePrincipal("ecs-tasks.amazonaws.com"),
      description: `Mergeyard ${props.environment.name}: ${props.role}`,
    });
    for (const statement of yardStatements(stack, props.role, props.place, props.environment.sources)) {
      this.role.addToPolicy(statement);
    }
    const linuxParameters = new LinuxParameters(this, "Linux", { initProcessEnabled: true });
    linuxParameters.addTmpfs({
      containerPath: "/tmp",
      size: Size.mebibytes(64),
      mountOptions: [TmpfsMountOption.NOEXEC, TmpfsMountOption.NOSUID, TmpfsMountOption.NODEV],
    });
    const container = new EcsEc2ContainerDefinition(this, "Container", {
      image: props.image,
      cpu: size.vcpus,
      memory: Size.mebibytes(size.memoryMiB),
      ...(size.gpus === undefined ? {} : { gpu: size.gpus }),
      jobRole: this.role,
      executionRole: props.executionRole,
      user: "node",
      readonlyRootFilesystem: true,
      linuxParameters,
      logging: LogDriver.awsLogs({ logGroup: props.logGroup, streamPrefix: props.role }),
      environment: {
        ...sizeVariables(size),
        AWS_REGION: stack.region,
        MERGEYARD_METADATA_ENDPOINT: "http://169.254.169.254",
        // Without `graphics` a container sees CUDA only; Vulkan, under WebGPU, needs it.
        ...(size.gpus === undefined ? {} : { NVIDIA_DRIVER_CAPABILITIES: "compute,utility,graphics" }),
      },
    });
    new EcsJobDefinition(this, "Definition", {
      jobDefinitionName: props.name,
      container,
      timeout: Duration.hours(ATTEMPT_HOURS),
      retryAttempts: JOB_RETRY.attempts,
      retryStrategies: JOB_RETRY.evaluateOnExit.map(toRetryStrategy),
      // A run that goes on during a deployment submits by name; the revision that its jobs have stays.
      skipDeregisterOnUpdate: true,
    });
    this.name = props.name;
    this.arn = arnOf(stack, "batch", "job-definition", props.name);
  }
}

function toRetryStrategy({ action, ...on }: ExitRule): RetryStrategy {
  return RetryStrategy.of(action === "RETRY" ? Action.RETRY : Action.EXIT, Reason.custom(on));
}
