// The dashboard: runs, units, bytes a second, what the fleet costs, failures, and how long jobs waited.
import { Duration, type Stack } from "aws-cdk-lib";
import {
  type Alarm,
  AlarmStatusWidget,
  Dashboard,
  GraphWidget,
  type IMetric,
  type IWidget,
  LogQueryVisualizationType,
  LogQueryWidget,
  MathExpression,
  Metric,
  PeriodOverride,
} from "aws-cdk-lib/aws-cloudwatch";
import type { LogGroup } from "aws-cdk-lib/aws-logs";
import { functionMetric, MESSAGES, type Metrics, OLDEST_MESSAGE, queueMetric, type Watched } from "./metrics.ts";
import { listTriggers, type Trigger } from "./triggers.ts";

type DashboardProps = Watched & {
  readonly metrics: Metrics;
  readonly alarms: Alarm[];
  readonly jobLog: LogGroup;
};

const WIDTH = 12;
const PERIOD = Duration.minutes(5);

export function createDashboard(stack: Stack, props: DashboardProps): Dashboard {
  const { environment, metrics, alarms, jobLog, flow } = props;
  const dashboard = new Dashboard(stack, "Dashboard", {
    dashboardName: `mergeyard-${environment.name}`,
    defaultInterval: Duration.days(7),
    periodOverride: PeriodOverride.AUTO,
  });
  dashboard.addWidgets(new AlarmStatusWidget({ title: "Alarms", alarms, width: 24, height: 3 }));
  dashboard.addWidgets(runs(flow.stateMachineArn), units(metrics));
  dashboard.addWidgets(throughput(metrics), fleet(metrics, environment));
  dashboard.addWidgets(waits(jobLog), failures(flow.steps.recordFailure.logGroupName));
  dashboard.addWidgets(functions(props));
  if (listTriggers(flow.triggers).length > 0) dashboard.addWidgets(events(listTriggers(flow.triggers)));
  return dashboard;
}

function graph(title: string, left: IMetric[], label: string): GraphWidget {
  return new GraphWidget({ title, left, width: WIDTH, height: 6, leftYAxis: { min: 0, label, showUnits: false } });
}

function runs(stateMachineArn: string): IWidget {
  const metric = (metricName: string) =>
    new Metric({
      namespace: "AWS/States",
      metricName,
      dimensionsMap: { StateMachineArn: stateMachineArn },
      statistic: "Sum",
      period: PERIOD,
    });
  const names = ["ExecutionsStarted", "ExecutionsSucceeded", "ExecutionsFailed", "ExecutionsTimedOut"];
  return graph("Runs", [...names, "ExecutionsAborted"].map(metric), "executions");
}

function units({ units: { finished, cached, failed } }: Metrics): IWidget {
  return graph("Units", [finished, cached, failed], "units");
}

function throughput({ bytes: { read, written } }: Metrics): IWidget {
  const speed = (label: string, metric: Metric) =>
    new MathExpression({
      expression: `${label} / PERIOD(${label}) / 1000000000`,
      usingMetrics: { [label]: metric },
      label,
      period: PERIOD,
    });
  return graph("Bytes of finished units", [speed("read", read), speed("written", written)], "GB/s");
}

/** Time of units is a little less than what machines are billed for: starting and idling are not in it. */
function fleet({ unitMs }: Metrics, { cpu, vcpuHourUsd }: DashboardProps["environment"]): IWidget {
  const hours = `ms / 3600000 * ${cpu.job.vcpus}`;
  const expression = (label: string, text: string) =>
    new MathExpression({ expression: text, usingMetrics: { ms: unitMs }, label, period: PERIOD });
  return new GraphWidget({
    title: "Fleet",
    left: [expression(`cost at $${vcpuHourUsd} a vCPU hour`, `${hours} * ${vcpuHourUsd}`)],
    right: [expression("vCPU hours", hours)],
    leftYAxis: { min: 0, label: "USD", showUnits: false },
    rightYAxis: { min: 0, label: "vCPU hours", showUnits: false },
    width: WIDTH,
    height: 6,
  });
}

function waits(jobLog: LogGroup): IWidget {
  return new LogQueryWidget({
    title: "Seconds that jobs waited for a machine",
    logGroupNames: [jobLog.logGroupName],
    view: LogQueryVisualizationType.LINE,
    queryLines: [
      'filter detail.status = "RUNNING"',
      "fields (detail.startedAt - detail.createdAt) / 1000 as waited",
      "stats avg(waited) as mean, max(waited) as longest by bin(5m)",
    ],
    width: WIDTH,
    height: 6,
  });
}

function failures(log: string): IWidget {
  return new LogQueryWidget({
    title: "Failed runs",
    logGroupNames: [log],
    view: LogQueryVisualizationType.TABLE,
    queryLines: [
      "fields @timestamp, run, state, error.code, error.meaning, unitsFailed",
      'filter event = "run-failed"',
      "sort @timestamp desc",
      "limit 50",
    ],
    width: WIDTH,
    height: 6,
  });
}

/** How long events that may start runs have waited, and how many started nothing. */
function events(triggers: readonly Trigger[]): IWidget {
  const at = (name: string, metric: string) => queueMetric(name, metric).with({ period: PERIOD });
  return new GraphWidget({
    title: "Queues of events",
    left: triggers.map(({ queueName }) => at(queueName, OLDEST_MESSAGE)),
    right: triggers.map(({ deadLettersName }) => at(deadLettersName, MESSAGES)),
    leftYAxis: { min: 0, label: "age of the oldest, s", showUnits: false },
    rightYAxis: { min: 0, label: "dead letters", showUnits: false },
    width: 24,
    height: 6,
  });
}

function functions({ flow }: DashboardProps): IWidget {
  const all = [...Object.values(flow.steps), ...listTriggers(flow.triggers).map(({ step }) => step)];
  return new GraphWidget({
    title: "Functions",
    left: all.map((step) => functionMetric(step.functionName, "Duration", "Maximum").with({ period: PERIOD })),
    right: all.map((step) => functionMetric(step.functionName, "Errors", "Sum").with({ period: PERIOD })),
    leftYAxis: { min: 0, label: "ms, longest", showUnits: false },
    rightYAxis: { min: 0, label: "errors", showUnits: false },
    width: 24,
    height: 6,
  });
}
