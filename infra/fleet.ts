// A fleet: a Batch queue with the machines behind it, Spot first and on-demand where there is none, and the limit of
// what waiting for a machine may take.
import { Duration, Tags, Validations } from "aws-cdk-lib";
import {
  AllocationStrategy,
  CfnComputeEnvironment,
  type EcsMachineImageType,
  JobQueue,
  JobStateTimeLimitActionsReason,
  ManagedEc2EcsComputeEnvironment,
} from "aws-cdk-lib/aws-batch";
import {
  BlockDeviceVolume,
  EbsDeviceVolumeType,
  type InstanceClass,
  LaunchTemplate,
  LaunchTemplateHttpTokens,
  MultipartBody,
  MultipartUserData,
  UserData,
} from "aws-cdk-lib/aws-ec2";
import { ManagedPolicy, Role, ServicePrincipal } from "aws-cdk-lib/aws-iam";
import { Construct } from "constructs";
import type { Network } from "./network.ts";

export type FleetProps = {
  readonly queueName: string;
  readonly network: Network;
  readonly instances: readonly InstanceClass[];
  readonly imageType: EcsMachineImageType;
  readonly maxVcpus: number;
  readonly spot: boolean;
  readonly runnableMinutes: number;
};

/** Gigabytes of a machine's root volume: the image and logs. Workers keep nothing on disk. */
const ROOT_GIB = 40;

/** AWS's own, of machines that ECS places containers on. */
const MACHINE_POLICY = "service-role/AmazonEC2ContainerServiceforEC2Role";

/** Why a job can wait forever at the head of a queue, by Batch's own names; after the time it fails and says so. */
const STUCK_REASONS = [
  JobStateTimeLimitActionsReason.INSUFFICIENT_INSTANCE_CAPACITY,
  JobStateTimeLimitActionsReason.COMPUTE_ENVIRONMENT_MAX_RESOURCE,
  JobStateTimeLimitActionsReason.JOB_RESOURCE_REQUIREMENT,
];

export class Fleet extends Construct {
  readonly queue: JobQueue;

  constructor(scope: Construct, id: string, props: FleetProps) {
    super(scope, id);
    const instanceRole = new Role(this, "MachineRole", {
      assumedBy: new ServicePrincipal("ec2.amazonaws.com"),
      managedPolicies: [ManagedPolicy.fromAwsManagedPolicyName(MACHINE_POLICY)],
    });
    Validations.of(instanceRole).acknowledge({
      id: `AwsSolutions-IAM4[Policy::arn:<AWS::Partition>:iam::aws:policy/${MACHINE_POLICY}]`,
      reason: "what the ECS agent of a machine needs, kept up to date by AWS; it gives no right to the yard",
    });
    const launchTemplate = createLaunchTemplate(this);
    const kinds = props.spot ? [true, false] : [false];
    const environments = kinds.map((spot) => {
      const { network } = props;
      const environment = new ManagedEc2EcsComputeEnvironment(this, spot ? "Spot" : "OnDemand", {
        vpc: network.vpc,
        vpcSubnets: { subnetType: network.subnets },
        securityGroups: [network.securityGroup],
        instanceClasses: [...props.instances],
        useOptimalInstanceClasses: false,
        images: [{ imageType: props.imageType }],
        minvCpus: 0,
        maxvCpus: props.maxVcpus,
        spot,
        allocationStrategy: spot
          ? AllocationStrategy.SPOT_PRICE_CAPACITY_OPTIMIZED
          : AllocationStrategy.BEST_FIT_PROGRESSIVE,
        instanceRole,
        launchTemplate,
        updateToLatestImageVersion: true,
        // Running jobs go on for this long when the machines are replaced by newer ones; then they are tried again.
        terminateOnUpdate: false,
        updateTimeout: Duration.hours(1),
      });
      useLatestTemplate(environment);
      Tags.of(environment).add("mergeyard:queue", props.queueName);
      return environment;
    });
    this.queue = new JobQueue(this, "Queue", {
      jobQueueName: props.queueName,
      computeEnvironments: environments.map((computeEnvironment, order) => ({ computeEnvironment, order: order + 1 })),
      jobStateTimeLimitActions: STUCK_REASONS.map((reason) => ({
        reason,
        maxTime: Duration.minutes(props.runnableMinutes),
      })),
    });
  }
}

/** A template's default version stays its first one; the construct asks for the default. */
function useLatestTemplate(environment: ManagedEc2EcsComputeEnvironment): void {
  const resource = environment.node.defaultChild;
  if (!(resource instanceof CfnComputeEnvironment)) throw new Error("no resource of a compute environment");
  resource.addPropertyOverride("ComputeResources.LaunchTemplate.Version", "$Latest");
}

/** Machines whose metadata needs a token, with an encrypted disk, that stop their containers when Spot takes them. */
function createLaunchTemplate(scope: Construct): LaunchTemplate {
  const settings = UserData.forLinux();
  settings.addCommands("echo ECS_ENABLE_SPOT_INSTANCE_DRAINING=true >> /etc/ecs/ecs.config");
  const userData = new MultipartUserData();
  userData.addPart(MultipartBody.fromUserData(settings));
  return new LaunchTemplate(scope, "Machine", {
    userData,
    httpTokens: LaunchTemplateHttpTokens.REQUIRED,
    // Containers share the machine's network, so one hop reaches the metadata from them.
    httpPutResponseHopLimit: 1,
    blockDevices: [
      {
        deviceName: "/dev/xvda",
        volume: BlockDeviceVolume.ebs(ROOT_GIB, {
          encrypted: true,
          volumeType: EbsDeviceVolumeType.GP3,
          deleteOnTermination: true,
        }),
      },
    ],
  });
}
