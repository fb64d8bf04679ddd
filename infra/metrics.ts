// Numbers out of logged events: what workers and functions print as lines of JSON anyway becomes metrics by filters.
import type { Stack } from "aws-cdk-lib";
import { Metric, Unit } from "aws-cdk-lib/aws-cloudwatch";
import { FilterPattern, type ILogGroup, LogGroup, MetricFilter } from "aws-cdk-lib/aws-logs";
import type { Compute } from "./compute-stack.ts";
import type { Environment } from "./config.ts";
import type { Flow } from "./flow-stack.ts";
import type { Trigger } from "./triggers.ts";

/** A deployment, as those see it who watch it. */
export type Watched = { readonly environment: Environment; readonly compute: Compute; readonly flow: Flow };

export type Trouble = {
  readonly id: string;
  /** What it means and what to do. */
  readonly says: string;
  readonly metric: Metric;
  readonly threshold: number;
};

export type Metrics = {
  readonly environment: string;
  readonly units: { readonly finished: Metric; readonly cached: Metric; readonly failed: Metric };
  readonly bytes: { readonly read: Metric; readonly written: Metric };
  /** Milliseconds that units took, summed. */
  readonly unitMs: Metric;
  readonly troubles: readonly Trouble[];
};

/** What Batch calls a queue whose first job waits for a machine that does not come. */
export const QUEUE_BLOCKED = "Batch Job Queue Blocked";

/** Seconds that a message of an upload may be unheard before somebody is told. */
const MESSAGE_AGE_S = 3600;

/** A queue's own metric, at its largest. */
export function queueMetric(QueueName: string, metricName: string): Metric {
  return new Metric({ namespace: "AWS/SQS", metricName, dimensionsMap: { QueueName }, statistic: "Maximum" });
}

/** A function's own metric. */
export function functionMetric(FunctionName: string, metricName: string, statistic: "Sum" | "Maximum"): Metric {
  return new Metric({ namespace: "AWS/Lambda", metricName, dimensionsMap: { FunctionName }, statistic });
}

export const OLDEST_MESSAGE = "ApproximateAgeOfOldestMessage";
export const MESSAGES = "ApproximateNumberOfMessagesVisible";

/** `jobLog` has what Batch says of jobs and queues. */
export function createMetrics(stack: Stack, { environment, compute, flow }: Watched, jobLog: ILogGroup): Metrics {
  const { name } = environment;
  const count = (id: string, logGroup: ILogGroup, pattern: string, value = "1", unit?: Unit): Metric =>
    new MetricFilter(stack, id, {
      logGroup,
      filterPattern: FilterPattern.literal(pattern),
      metricNamespace: `Mergeyard/${name}`,
      metricName: id,
      metricValue: value,
      unit,
    }).metric({ statistic: "Sum" });
  const logOf = (id: string, logGroupName: string) => LogGroup.fromLogGroupName(stack, `${id}Log`, logGroupName);
  const workers = logOf("Workers", compute.logGroupName);
  const finished = '{ $.event = "unit-finished" }';
  return {
    environment: name,
    units: {
      finished: count("UnitsFinished", workers, finished),
      cached: count("UnitsCached", workers, '{ $.event = "unit-finished" && $.cached IS TRUE }'),
      failed: count("UnitsFailed", workers, '{ $.event = "unit-failed" }'),
    },
    bytes: {
      read: count("BytesRead", workers, finished, "$.bytesRead", Unit.BYTES),
      written: count("BytesWritten", workers, finished, "$.bytesWritten", Unit.BYTES),
    },
    unitMs: count("UnitMilliseconds", workers, finished, "$.wallMs", Unit.MILLISECONDS),
    troubles: [
      {
        id: "queue-blocked",
        says: "a job waits for a machine that does not come: docs/deploy.md, When something fails",
        metric: count("QueuesBlocked", jobLog, `{ $.detail-type = "${QUEUE_BLOCKED}" }`),
        threshold: 1,
      },
      ...Object.entries(flow.triggers).flatMap(([kind, trigger]) =>
        trigger === undefined
          ? []
          : triggerTroubles(
              kind,
              trigger,
              count(
                `Unreadable-${kind}`,
                logOf(kind, trigger.step.logGroupName),
                '{ $.event = "pipeline-unreadable" }',
              ),
            ),
      ),
    ],
  };
}

function triggerTroubles(kind: string, { step, queueName, deadLettersName }: Trigger, unreadable: Metric): Trouble[] {
  return [
    {
      id: `${kind}-dead-letters`,
      says: "events that started nothing: docs/deploy.md, Sending dead letters back",
      metric: queueMetric(deadLettersName, MESSAGES),
      threshold: 1,
    },
    {
      id: `${kind}-late`,
      says: "events wait for an hour: see the function's errors",
      metric: queueMetric(queueName, OLDEST_MESSAGE),
      threshold: MESSAGE_AGE_S,
    },
    {
      id: `${kind}-unreadable-pipeline`,
      says: "a file under pipelines/ is no pipeline, so nothing starts it: the function's log names it",
      metric: unreadable,
      threshold: 1,
    },
    {
      id: `${kind}-function-errors`,
      says: "the function itself failed: see its log",
      metric: functionMetric(step.functionName, "Errors", "Sum"),
      threshold: 1,
    },
  ];
}
