// What people see: a topic that is told of trouble, alarms, and a dashboard made of what workers and functions log. No
// code of its own: metrics are read out of the logged events.
import { CfnOutput, Duration, RemovalPolicy, Stack, type StackProps } from "aws-cdk-lib";
import { type Alarm, ComparisonOperator, TreatMissingData } from "aws-cdk-lib/aws-cloudwatch";
import { SnsAction } from "aws-cdk-lib/aws-cloudwatch-actions";
import { CfnRule, EventField, Rule, RuleTargetInput } from "aws-cdk-lib/aws-events";
import { SnsTopic } from "aws-cdk-lib/aws-events-targets";
import { PolicyStatement, ServicePrincipal } from "aws-cdk-lib/aws-iam";
import { Key } from "aws-cdk-lib/aws-kms";
import { CfnResourcePolicy, LogGroup } from "aws-cdk-lib/aws-logs";
import { Topic } from "aws-cdk-lib/aws-sns";
import { EmailSubscription } from "aws-cdk-lib/aws-sns-subscriptions";
import type { Construct } from "constructs";
import type { Environment } from "./config.ts";
import { createDashboard } from "./dashboard.ts";
import { createMetrics, type Metrics, QUEUE_BLOCKED, type Watched } from "./metrics.ts";

type ObservabilityProps = StackProps & Watched & { readonly keyArn: string };

export class ObservabilityStack extends Stack {
  readonly topic: Topic;

  constructor(scope: Construct, id: string, props: ObservabilityProps) {
    super(scope, id, props);
    const { environment, compute, flow } = props;
    this.topic = this.#createTopic(props);
    const jobs = this.#logJobs(environment, Object.values(compute.queueArns));
    this.#tellOfRuns(environment, flow.stateMachineArn);
    this.#tellOfBlockedQueues(Object.values(compute.queueArns), jobs.arn);
    const metrics = createMetrics(this, props, jobs.log);
    const alarms = this.#createAlarms(metrics);
    const dashboard = createDashboard(this, { ...props, metrics, alarms, jobLog: jobs.log });
    new CfnOutput(this, "TopicArn", { value: this.topic.topicArn });
    new CfnOutput(this, "DashboardName", { value: dashboard.dashboardName });
  }

  #createTopic({ environment, keyArn }: ObservabilityProps): Topic {
    const topic = new Topic(this, "Alerts", {
      topicName: `mergeyard-${environment.name}-alerts`,
      // By its ARN: its policy lets alarms and rules use it already, and must not grow with every rule.
      masterKey: Key.fromKeyArn(this, "Key", keyArn),
      enforceSSL: true,
    });
    // A policy of our own replaces the default one, under which alarms could publish.
    topic.addToResourcePolicy(
      new PolicyStatement({
        sid: "Alarms",
        principals: [new ServicePrincipal("cloudwatch.amazonaws.com")],
        actions: ["sns:Publish"],
        resources: [topic.topicArn],
        conditions: { StringEquals: { "aws:SourceAccount": this.account } },
      }),
    );
    for (const email of environment.alerts.emails) topic.addSubscription(new EmailSubscription(email));
    return topic;
  }

  /** Runs that failed, by name, with the error that the failure record has; runs that went well if wanted. */
  #tellOfRuns({ name, alerts }: Environment, stateMachineArn: string): void {
    const told = ["FAILED", "TIMED_OUT", "ABORTED", ...(alerts.successes ? ["SUCCEEDED"] : [])];
    const field = (path: string) => EventField.fromPath(`$.detail.${path}`);
    new Rule(this, "RunsEnded", {
      eventPattern: {
        source: ["aws.states"],
        detailType: ["Step Functions Execution Status Change"],
        detail: { stateMachineArn: [stateMachineArn], status: told },
      },
      targets: [
        new SnsTopic(this.topic, {
          message: RuleTargetInput.fromText(
            `Mergeyard ${name}: execution ${field("name")} ${field("status")}. ${field("error")}\n${field("cause")}`,
          ),
        }),
      ],
    });
  }

  /**
   * A job that waits at the head of a queue for a machine that does not come: Batch says so, with the reason. People
   * are told it as it is; an alarm counts it in the log.
   */
  #tellOfBlockedQueues(queueArns: readonly string[], logArn: string): void {
    new Rule(this, "QueueBlocked", {
      eventPattern: {
        source: ["aws.batch"],
        detailType: [QUEUE_BLOCKED],
        resources: [...queueArns],
      },
      targets: [new SnsTopic(this.topic), { bind: () => ({ arn: logArn }) }],
    });
  }

  /** Every change of a job's state into a log, from which the dashboard reads how long jobs waited. */
  #logJobs(
    { name, logDays }: Environment,
    queueArns: readonly string[],
  ): { readonly log: LogGroup; readonly arn: string } {
    const log = new LogGroup(this, "Jobs", {
      logGroupName: `/aws/events/mergeyard-${name}-jobs`,
      retention: logDays,
      removalPolicy: RemovalPolicy.DESTROY,
    });
    new CfnResourcePolicy(this, "JobsPolicy", {
      policyName: `mergeyard-${name}-jobs`,
      policyDocument: this.toJsonString({
        Version: "2012-10-17",
        Statement: [
          {
            Sid: "Events",
            Effect: "Allow",
            Principal: { Service: ["events.amazonaws.com", "delivery.logs.amazonaws.com"] },
            Action: ["logs:CreateLogStream", "logs:PutLogEvents"],
            Resource: log.logGroupArn,
          },
        ],
      }),
    });
    // The target construct would deploy a function to make that policy.
    const arn = this.formatArn({ service: "logs", resource: `log-group:${log.logGroupName}` });
    new CfnRule(this, "JobChanges", {
      eventPattern: {
        source: ["aws.batch"],
        "detail-type": ["Batch Job State Change"],
        detail: { jobQueue: [...queueArns], status: ["RUNNING", "SUCCEEDED", "FAILED"] },
      },
      targets: [{ id: "Log", arn }],
    });
    return { log, arn };
  }

  #createAlarms(metrics: Metrics): Alarm[] {
    const period = Duration.minutes(5);
    const wanted = metrics.troubles.map(({ id, says, metric, threshold }) =>
      metric.with({ period }).createAlarm(this, id, {
        alarmName: `mergeyard-${metrics.environment}-${id}`,
        alarmDescription: says,
        threshold,
        evaluationPeriods: 1,
        comparisonOperator: ComparisonOperator.GREATER_THAN_OR_EQUAL_TO_THRESHOLD,
        treatMissingData: TreatMissingData.NOT_BREACHING,
      }),
    );
    for (const alarm of wanted) alarm.addAlarmAction(new SnsAction(this.topic));
    return wanted;
  }
}
