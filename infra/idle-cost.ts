// What an environment costs a month while no run does, from the resources of its templates and list prices with their
// date. Every type of resource is priced or known to cost nothing by itself; a new one is refused until somebody has
// looked it up. docs/deploy.md has the sums (tools/cost-examples.ts).
import * as z from "zod";

/** List prices in dollars, read at second hand: check them before you rely on them. */
export const IDLE_PRICES = Object.freeze({
  region: "us-east-1",
  asOf: "2026-06",
  keyMonth: 1,
  alarmMonth: 0.1,
  /** Each beyond an account's first three. */
  dashboardMonth: 3,
  natGatewayHour: 0.045,
  publicAddressHour: 0.005,
  /** One interface endpoint in one zone. */
  endpointHour: 0.01,
  queueRequest: 0.4e-6,
  invocation: 0.2e-6,
  gibSecond: 0.0000133334,
  scheduledCall: 1e-6,
});

const HOURS = 730;
/** Lambda asks a queue with this many connections, each held for this many seconds while nothing comes. */
const POLLERS = 5;
const POLL_SECONDS = 20;
/** What one look at the schedules takes, an assumption: seconds and GiB of the clock's function. */
const TICK = { seconds: 1, gib: 1 };

/** A resource of a template, its properties evaluated or not. */
export type TemplateResource = { readonly type: string; readonly properties: Readonly<Record<string, unknown>> };
export type IdleCost = { readonly what: string; readonly count: number; readonly usdMonth: number };

type Priced = { readonly what: string; readonly usdMonth: (properties: TemplateResource["properties"]) => number };

const endpointSchema = z.looseObject({ VpcEndpointType: z.string(), SubnetIds: z.array(z.unknown()).default([]) });
const scheduleSchema = z.looseObject({ ScheduleExpression: z.string().regex(/^rate\(\d+ minutes?\)$/) });

const PRICED: Readonly<Record<string, Priced>> = Object.freeze({
  "AWS::KMS::Key": { what: "KMS keys", usdMonth: () => IDLE_PRICES.keyMonth },
  "AWS::CloudWatch::Alarm": { what: "alarms", usdMonth: () => IDLE_PRICES.alarmMonth },
  "AWS::CloudWatch::Dashboard": { what: "dashboard", usdMonth: () => IDLE_PRICES.dashboardMonth },
  "AWS::EC2::NatGateway": { what: "NAT gateway", usdMonth: () => IDLE_PRICES.natGatewayHour * HOURS },
  "AWS::EC2::EIP": { what: "its public address", usdMonth: () => IDLE_PRICES.publicAddressHour * HOURS },
  "AWS::EC2::VPCEndpoint": {
    what: "interface endpoints",
    usdMonth(properties) {
      const { VpcEndpointType, SubnetIds } = endpointSchema.parse(properties);
      return VpcEndpointType === "Gateway" ? 0 : IDLE_PRICES.endpointHour * HOURS * SubnetIds.length;
    },
  },
  "AWS::Lambda::EventSourceMapping": {
    what: "asking the triggers' queues",
    usdMonth: () => ((HOURS * 3600) / POLL_SECONDS) * POLLERS * IDLE_PRICES.queueRequest,
  },
  "AWS::Scheduler::Schedule": {
    what: "the clock",
    usdMonth(properties) {
      const [minutes] = /\d+/.exec(scheduleSchema.parse(properties).ScheduleExpression) ?? [];
      const { scheduledCall, invocation, gibSecond } = IDLE_PRICES;
      return ((HOURS * 60) / Number(minutes)) * (scheduledCall + invocation + TICK.seconds * TICK.gib * gibSecond);
    },
  },
});

/** Types that cost nothing, or only with what is stored, sent, started or logged. */
const FREE = [
  /^AWS::IAM::/,
  /^AWS::Batch::/,
  /^AWS::EC2::(?:FlowLog|InternetGateway|LaunchTemplate|Route|RouteTable|SecurityGroup|SecurityGroupIngress)$/,
  /^AWS::EC2::(?:SecurityGroupEgress|Subnet|SubnetRouteTableAssociation|VPC|VPCGatewayAttachment)$/,
  /^AWS::Events::Rule$/,
  /^AWS::KMS::Alias$/,
  /^AWS::Lambda::(?:Function|Permission)$/,
  /^AWS::Logs::/,
  /^AWS::S3::/,
  /^AWS::SNS::/,
  /^AWS::SQS::/,
  /^AWS::StepFunctions::StateMachine$/,
];

/** The monthly cost of every kind of resource that has one, dearest first. Throws for a type that nobody has priced. */
export function idleCosts(resources: readonly TemplateResource[]): readonly IdleCost[] {
  const costs = new Map<string, IdleCost>();
  for (const { type, properties } of resources) {
    const priced = PRICED[type];
    if (priced === undefined) {
      if (FREE.some((free) => free.test(type))) continue;
      throw new Error(`infra/idle-cost.ts: what does ${type} cost while it idles?`);
    }
    const usd = priced.usdMonth(properties);
    if (usd === 0) continue;
    const { count = 0, usdMonth = 0 } = costs.get(priced.what) ?? {};
    costs.set(priced.what, { what: priced.what, count: count + 1, usdMonth: usdMonth + usd });
  }
  return [...costs.values()].toSorted((a, b) => b.usdMonth - a.usdMonth || (a.what < b.what ? -1 : 1));
}
