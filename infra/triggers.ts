// What starts pipelines: objects created in the yard, and the clock. Both go through a queue, so that a message that
// fails is tried again alone, waits in the dead letters when it goes on failing, and can be sent back from there.
import { Duration, type Stack } from "aws-cdk-lib";
import { Rule } from "aws-cdk-lib/aws-events";
import { SqsQueue } from "aws-cdk-lib/aws-events-targets";
import { SqsEventSource } from "aws-cdk-lib/aws-lambda-event-sources";
import { ContextAttribute, Schedule, ScheduleExpression, ScheduleTargetInput } from "aws-cdk-lib/aws-scheduler";
import { SqsSendMessage } from "aws-cdk-lib/aws-scheduler-targets";
import { Queue, QueueEncryption, RedrivePermission } from "aws-cdk-lib/aws-sqs";
import type { Environment } from "./config.ts";
import { StepFunction } from "./step-function.ts";
import { allow, type YardPlace, type YardRole } from "./yard-access.ts";

export type Trigger = {
  readonly step: StepFunction;
  readonly queue: Queue;
  readonly deadLetters: Queue;
  readonly queueName: string;
  readonly deadLettersName: string;
};
export type Triggers = { readonly [name in "uploads" | "clock"]: Trigger | undefined };

type TriggerProps = {
  readonly environment: Environment;
  readonly place: YardPlace;
  readonly yardUri: string;
  readonly bucketName: string;
  readonly stateMachineArn: string;
};

const FUNCTION_TIMEOUT = Duration.minutes(5);
/** Headers of an upload, one after the other. */
const MEMORY_MIB = 1024;
/** A message is hidden for this long while it is worked on; AWS asks for six times the function's own time. */
const VISIBILITY = Duration.minutes(30);
/** Attempts before a message is a dead letter. */
const ATTEMPTS = 5;
/** Seconds that messages are collected: the files of one upload come together, and are asked about once. */
const COLLECT = Duration.seconds(20);

/**
 * Keys whose creation may make an upload whole, or change what it means. All of an upload's small files are among them;
 * its marker is the sure one.
 */
const UPLOAD_KEYS = ["incoming/*/_COMPLETE", "incoming/*.safetensors", "incoming/*.gguf", "incoming/*.json"];

export function createTriggers(stack: Stack, props: TriggerProps): Triggers {
  const { triggers, name } = props.environment;
  const minutes = triggers.scheduleMinutes;
  return {
    uploads: triggers.uploads ? watchUploads(stack, props) : undefined,
    clock: minutes === null ? undefined : watchClock(stack, props, minutes, name),
  };
}

/** Those that are switched on, with the words that outputs call them by. */
export function listTriggers({ uploads, clock }: Triggers): readonly (Trigger & { readonly name: string })[] {
  return [
    ...(uploads === undefined ? [] : [{ ...uploads, name: "Uploads" }]),
    ...(clock === undefined ? [] : [{ ...clock, name: "Clock" }]),
  ];
}

function watchUploads(stack: Stack, props: TriggerProps): Trigger {
  const trigger = createTrigger(stack, "OnUpload", "onUpload", "on-upload", props);
  new Rule(stack, "Uploads", {
    description: `Mergeyard ${props.environment.name}: objects created under incoming/`,
    eventPattern: {
      source: ["aws.s3"],
      detailType: ["Object Created"],
      detail: {
        bucket: { name: [props.bucketName] },
        object: { key: UPLOAD_KEYS.map((wildcard) => ({ wildcard })) },
      },
    },
    targets: [new SqsQueue(trigger.queue, { deadLetterQueue: trigger.deadLetters, maxEventAge: Duration.hours(24) })],
  });
  return trigger;
}

function watchClock(stack: Stack, props: TriggerProps, minutes: number, name: string): Trigger {
  const trigger = createTrigger(stack, "OnSchedule", "onSchedule", "on-schedule", props);
  new Schedule(stack, "Clock", {
    scheduleName: `mergeyard-${name}-clock`,
    description: `Mergeyard ${name}: looks which pipelines' schedules fell due`,
    schedule: ScheduleExpression.rate(Duration.minutes(minutes)),
    target: new SqsSendMessage(trigger.queue, {
      input: ScheduleTargetInput.fromObject({ scheduledTime: ContextAttribute.scheduledTime, minutes }),
      deadLetterQueue: trigger.deadLetters,
      maxEventAge: Duration.hours(24),
    }),
  });
  return trigger;
}

function createTrigger(stack: Stack, id: string, role: YardRole, file: string, props: TriggerProps): Trigger {
  const { environment, place, yardUri, stateMachineArn } = props;
  const queueName = `mergeyard-${environment.name}-${file}`;
  const deadLettersName = `${queueName}-dead-letters`;
  const sealed = { encryption: QueueEncryption.SQS_MANAGED, enforceSSL: true };
  const deadLetters = new Queue(stack, `${id}DeadLetters`, {
    ...sealed,
    queueName: deadLettersName,
    retentionPeriod: Duration.days(14),
    redriveAllowPolicy: {
      redrivePermission: RedrivePermission.BY_QUEUE,
      // By its name: the queues' own names would need one another.
      sourceQueues: [
        Queue.fromQueueArn(stack, `${id}Source`, stack.formatArn({ service: "sqs", resource: queueName })),
      ],
    },
  });
  const queue = new Queue(stack, `${id}Queue`, {
    ...sealed,
    queueName,
    visibilityTimeout: VISIBILITY,
    retentionPeriod: Duration.days(4),
    deadLetterQueue: { queue: deadLetters, maxReceiveCount: ATTEMPTS },
  });
  const step = new StepFunction(stack, id, {
    environment,
    place,
    role,
    file,
    timeout: FUNCTION_TIMEOUT,
    memoryMiB: MEMORY_MIB,
    variables: { MERGEYARD_YARD: yardUri, MERGEYARD_STATE_MACHINE: stateMachineArn },
  });
  step.role.addToPolicy(allow("StartRuns", ["states:StartExecution"], [stateMachineArn]));
  step.lambda.addEventSource(
    new SqsEventSource(queue, {
      batchSize: 100,
      maxBatchingWindow: COLLECT,
      maxConcurrency: 2,
      reportBatchItemFailures: true,
    }),
  );
  return { step, queue, deadLetters, queueName, deadLettersName };
}
