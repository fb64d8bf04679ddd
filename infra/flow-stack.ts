// The pipeline itself: the functions of its steps, the state machine, and what starts it. The state machine is
// flow/machine.asl.json as it is, with its names left open for the template to fill in: what is deployed and what runs
// locally are one object.
import { ArnFormat, CfnOutput, Duration, RemovalPolicy, Stack, type StackProps, Validations } from "aws-cdk-lib";
import { ManagedPolicy, type PolicyStatement, Role, ServicePrincipal } from "aws-cdk-lib/aws-iam";
import { LogGroup } from "aws-cdk-lib/aws-logs";
import { CfnStateMachine } from "aws-cdk-lib/aws-stepfunctions";
import type { Construct } from "constructs";
import type { Fleet } from "../core/plan/machine.ts";
import { renderDefinition, type Substitutions } from "../flow/definition.ts";
import type { Compute } from "./compute-stack.ts";
import type { Environment } from "./config.ts";
import { StepFunction } from "./step-function.ts";
import { createTriggers, listTriggers, type Triggers } from "./triggers.ts";
import { allow, arnOf, signingStatements, type YardPlace, yardStatements } from "./yard-access.ts";

export type FlowProps = StackProps & {
  readonly environment: Environment;
  readonly place: YardPlace;
  readonly yardUri: string;
  readonly bucketName: string;
  readonly compute: Compute;
};

/** The states of these functions wait 900 s. */
const LONG = Duration.seconds(880);
/** And of these 300 s. */
const SHORT = Duration.seconds(280);

export type Steps = {
  readonly [name in "plan" | "check" | "publish" | "notify" | "recordFailure"]: StepFunction;
};

/** What other stacks watch. */
export type Flow = { readonly stateMachineArn: string; readonly steps: Steps; readonly triggers: Triggers };

export class FlowStack extends Stack {
  readonly flow: Flow;

  constructor(scope: Construct, id: string, props: FlowProps) {
    super(scope, id, props);
    const { environment, compute } = props;
    const steps = createSteps(this, props);
    const name = `mergeyard-${environment.name}`;
    const names: Substitutions = {
      PlanFunction: steps.plan.lambda.functionArn,
      CheckFunction: steps.check.lambda.functionArn,
      PublishFunction: steps.publish.lambda.functionArn,
      NotifyFunction: steps.notify.lambda.functionArn,
      RecordFailureFunction: steps.recordFailure.lambda.functionArn,
      ShardJobDefinition: compute.jobs.sharder.arn,
      WorkerJobDefinition: compute.jobs.worker.arn,
      GpuWorkerJobDefinition: compute.jobs.gpu?.arn ?? "no-gpu-job-definition",
      CpuQueue: compute.queueArns.cpu,
      GpuQueue: compute.queueArns.gpu ?? "no-gpu-queue",
    };
    const role = new Role(this, "StateMachineRole", {
      assumedBy: new ServicePrincipal("states.amazonaws.com"),
      description: `Mergeyard ${environment.name}: calls the steps and runs their jobs`,
    });
    for (const statement of flowStatements(this, steps, compute)) role.addToPolicy(statement);
    const logGroup = new LogGroup(this, "StateMachineLogs", {
      logGroupName: `/aws/vendedlogs/states/${name}`,
      retention: environment.logDays,
      removalPolicy: RemovalPolicy.DESTROY,
    });
    const stateMachine = new CfnStateMachine(this, "StateMachine", {
      stateMachineName: name,
      stateMachineType: "STANDARD",
      roleArn: role.roleArn,
      definitionString: JSON.stringify(renderDefinition(leaveOpen(names))),
      definitionSubstitutions: { ...names },
      loggingConfiguration: {
        level: "ALL",
        // Inputs and outputs name models; the history has them for 90 days, the log need not.
        includeExecutionData: false,
        destinations: [{ cloudWatchLogsLogGroup: { logGroupArn: logGroup.logGroupArn } }],
      },
    });
    Validations.of(stateMachine).acknowledge(
      {
        id: "CloudFormation-Validate::E1029",
        reason: "the names left open are those of DefinitionSubstitutions, not of Fn::Sub",
      },
      {
        id: "AwsSolutions-SF2",
        reason: "a run lasts hours and has its own timeline, runs/<run>/report.html; a trace would be a second copy",
      },
    );
    // The service checks the role when the machine is made.
    stateMachine.node.addDependency(role);
    const stateMachineArn = arnOf(this, "states", "stateMachine", name, ArnFormat.COLON_RESOURCE_NAME);
    const triggers = createTriggers(this, { ...props, stateMachineArn });
    this.flow = { stateMachineArn, steps, triggers };
    const runner = new ManagedPolicy(this, "Runner", {
      description: "Starts, follows and stops runs, and reads their logs",
      statements: [...runnerStatements(this, name, stateMachineArn, props), ...redriveStatements(triggers)],
    });
    new CfnOutput(this, "StateMachineArn", { value: stateMachineArn });
    for (const { name: kind, queue, deadLetters } of listTriggers(triggers)) {
      new CfnOutput(this, `${kind}QueueArn`, { value: queue.queueArn });
      new CfnOutput(this, `${kind}DeadLettersArn`, { value: deadLetters.queueArn });
    }
    new CfnOutput(this, "RunnerPolicyArn", { value: runner.managedPolicyArn });
  }
}

/** Each name stands for itself, for CloudFormation to fill in. */
function leaveOpen(names: Substitutions): Substitutions {
  const open = (name: keyof Substitutions) => `\${${name}}`;
  return {
    PlanFunction: open("PlanFunction"),
    CheckFunction: open("CheckFunction"),
    PublishFunction: open("PublishFunction"),
    NotifyFunction: open("NotifyFunction"),
    RecordFailureFunction: open("RecordFailureFunction"),
    ShardJobDefinition: open("ShardJobDefinition"),
    WorkerJobDefinition: open("WorkerJobDefinition"),
    GpuWorkerJobDefinition: open("GpuWorkerJobDefinition"),
    CpuQueue: open("CpuQueue"),
    GpuQueue: open("GpuQueue"),
  } satisfies Record<keyof typeof names, string>;
}

function createSteps(stack: Stack, { environment, place }: FlowProps): Steps {
  const parts = { environment, place, memoryMiB: environment.functionMemoryMiB };
  const fleet: Fleet = { cpu: environment.cpu.job, gpu: environment.gpu && gpuSize(environment.gpu.job) };
  const variables = { MERGEYARD_FLEET: JSON.stringify(fleet) };
  const { signingKeyArn } = place;
  const signing: Record<string, string> =
    signingKeyArn === undefined ? {} : { MERGEYARD_SIGNING_KEY: `awskms:///${signingKeyArn}` };
  const publish = new StepFunction(stack, "Publish", {
    ...parts,
    role: "publish",
    file: "publish",
    timeout: LONG,
    variables: signing,
  });
  const signs = signingKeyArn === undefined ? [] : signingStatements(signingKeyArn);
  for (const statement of signs) publish.role.addToPolicy(statement);
  return {
    plan: new StepFunction(stack, "Plan", { ...parts, role: "plan", file: "plan", timeout: LONG, variables }),
    check: new StepFunction(stack, "Check", { ...parts, role: "check", file: "check", timeout: LONG }),
    publish,
    notify: new StepFunction(stack, "Notify", { ...parts, role: "notify", file: "notify", timeout: SHORT }),
    recordFailure: new StepFunction(stack, "RecordFailure", {
      ...parts,
      role: "recordFailure",
      file: "record-failure",
      timeout: SHORT,
    }),
  };
}

/** Of a GPU job, what the planner asks for: how many GPUs it has is its definition's matter. */
function gpuSize({ vcpus, memoryMiB }: NonNullable<Environment["gpu"]>["job"]): Fleet["gpu"] {
  return { vcpus, memoryMiB };
}

/** What the definition's states call, and what ends a job when its execution is stopped. */
function flowStatements(stack: Stack, steps: Steps, { jobs, queueArns }: Compute): PolicyStatement[] {
  const functions = Object.values(steps).map(({ lambda }) => lambda.functionArn);
  const definitions = Object.values(jobs).flatMap(({ arn }) => [arn, `${arn}:*`]);
  return [
    allow("InvokeSteps", ["lambda:InvokeFunction"], functions),
    allow("SubmitJobs", ["batch:SubmitJob"], [...Object.values(queueArns), ...definitions]),
    allow("FollowJobs", ["batch:DescribeJobs"], ["*"]),
    allow("EndJobs", ["batch:TerminateJob"], [arnOf(stack, "batch", "job", "*")]),
    allow(
      "HearOfJobs",
      ["events:PutTargets", "events:PutRule", "events:DescribeRule"],
      [arnOf(stack, "events", "rule", "StepFunctionsGetEventsForBatchJobsRule")],
    ),
    allow("DeliverLogs", LOG_DELIVERY, ["*"]),
  ];
}

const LOG_DELIVERY = [
  ...["logs:CreateLogDelivery", "logs:GetLogDelivery", "logs:UpdateLogDelivery", "logs:DeleteLogDelivery"],
  ...["logs:ListLogDeliveries", "logs:PutResourcePolicy", "logs:DescribeResourcePolicies", "logs:DescribeLogGroups"],
];

/** For people and their tools: what starting, following, stopping and explaining a run takes. */
function runnerStatements(stack: Stack, name: string, machineArn: string, props: FlowProps): PolicyStatement[] {
  const executions = arnOf(stack, "states", "execution", `${name}:*`, ArnFormat.COLON_RESOURCE_NAME);
  const logs = arnOf(
    stack,
    "logs",
    "log-group",
    `/mergeyard/${props.environment.name}/*`,
    ArnFormat.COLON_RESOURCE_NAME,
  );
  return [
    allow("RunStart", ["states:StartExecution", "states:ListExecutions", "states:DescribeStateMachine"], [machineArn]),
    allow(
      "RunFollow",
      ["states:DescribeExecution", "states:GetExecutionHistory", "states:StopExecution"],
      [executions],
    ),
    allow("RunJobs", ["batch:DescribeJobs", "batch:ListJobs"], ["*"]),
    allow("RunEndJobs", ["batch:TerminateJob"], [arnOf(stack, "batch", "job", "*")]),
    ...yardStatements(stack, "runner", props.place, []),
    allow("RunLogs", ["logs:GetLogEvents", "logs:FilterLogEvents"], [logs]),
  ];
}

/** What sending dead letters back takes: `aws sqs start-message-move-task`. */
function redriveStatements(triggers: Triggers): PolicyStatement[] {
  const all = listTriggers(triggers);
  if (all.length === 0) return [];
  const task = ["sqs:StartMessageMoveTask", "sqs:ListMessageMoveTasks", "sqs:CancelMessageMoveTask"];
  const reads = ["sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:GetQueueAttributes"];
  return [
    allow(
      "RedriveFrom",
      [...task, ...reads],
      all.map(({ deadLetters }) => deadLetters.queueArn),
    ),
    allow(
      "RedriveTo",
      ["sqs:SendMessage"],
      all.map(({ queue }) => queue.queueArn),
    ),
  ];
}
