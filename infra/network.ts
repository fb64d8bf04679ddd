// The network that machines start in. Nothing listens, so nothing may come in; bytes of checkpoints take the gateway
// endpoint of S3, which costs nothing, whichever way out the configuration chooses for the rest.
import { Validations } from "aws-cdk-lib";
import {
  GatewayVpcEndpointAwsService,
  InterfaceVpcEndpointAwsService,
  IpAddresses,
  Peer,
  Port,
  SecurityGroup,
  type SubnetConfiguration,
  SubnetType,
  Vpc,
} from "aws-cdk-lib/aws-ec2";
import type { Construct } from "constructs";
import type { Environment } from "./config.ts";

export type Network = {
  readonly vpc: Vpc;
  readonly subnets: SubnetType;
  readonly securityGroup: SecurityGroup;
};

type Egress = Environment["network"]["egress"];

/** Services that a machine without a way out must reach to be given a container: ECS, the registry, logs, keys. */
const ENDPOINT_SERVICES = {
  Ecs: InterfaceVpcEndpointAwsService.ECS,
  EcsAgent: InterfaceVpcEndpointAwsService.ECS_AGENT,
  EcsTelemetry: InterfaceVpcEndpointAwsService.ECS_TELEMETRY,
  Ecr: InterfaceVpcEndpointAwsService.ECR,
  EcrDocker: InterfaceVpcEndpointAwsService.ECR_DOCKER,
  Logs: InterfaceVpcEndpointAwsService.CLOUDWATCH_LOGS,
  Kms: InterfaceVpcEndpointAwsService.KMS,
  Batch: InterfaceVpcEndpointAwsService.BATCH,
} as const;

const SUBNETS: Readonly<Record<Egress, SubnetType>> = {
  public: SubnetType.PUBLIC,
  nat: SubnetType.PRIVATE_WITH_EGRESS,
  endpoints: SubnetType.PRIVATE_ISOLATED,
};

export function createNetwork(scope: Construct, { network, name }: Environment): Network {
  const { egress, zones, flowLogs } = network;
  const subnets = SUBNETS[egress];
  const vpc = new Vpc(scope, "Vpc", {
    vpcName: `mergeyard-${name}`,
    ipAddresses: IpAddresses.cidr("10.64.0.0/16"),
    maxAzs: zones,
    natGateways: egress === "nat" ? 1 : 0,
    // Nothing uses the default group; closing it takes a function of its own.
    restrictDefaultSecurityGroup: false,
    subnetConfiguration: subnetsFor(egress),
    gatewayEndpoints: { S3: { service: GatewayVpcEndpointAwsService.S3 } },
  });
  if (flowLogs) vpc.addFlowLog("FlowLog");
  else {
    Validations.of(vpc).acknowledge({
      id: "AwsSolutions-VPC7",
      reason: "flow logs are a choice, network.flowLogs: nothing can connect to a machine, and each record costs money",
    });
  }
  const securityGroup = new SecurityGroup(scope, "Machines", {
    vpc,
    description: "Batch machines: nothing comes in, HTTPS goes out",
    allowAllOutbound: false,
  });
  securityGroup.addEgressRule(Peer.anyIpv4(), Port.tcp(443), "S3 and the services that start containers");
  if (egress === "endpoints") addEndpoints(scope, vpc, securityGroup);
  return { vpc, subnets, securityGroup };
}

function subnetsFor(egress: Egress): SubnetConfiguration[] {
  const machines = { name: "machines", subnetType: SUBNETS[egress], cidrMask: 20 };
  return egress === "nat" ? [machines, { name: "gateway", subnetType: SubnetType.PUBLIC, cidrMask: 28 }] : [machines];
}

function addEndpoints(scope: Construct, vpc: Vpc, machines: SecurityGroup): void {
  const group = new SecurityGroup(scope, "Endpoints", {
    vpc,
    description: "Interface endpoints: HTTPS from the machines",
    allowAllOutbound: false,
  });
  group.addIngressRule(machines, Port.tcp(443), "machines");
  for (const [name, service] of Object.entries(ENDPOINT_SERVICES)) {
    vpc.addInterfaceEndpoint(name, { service, securityGroups: [group], open: false });
  }
}
