// Functions, what starts runs, what tells people, and the configuration that it all comes from.
import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { test } from "node:test";
import recommended from "aws-cdk-lib/recommended-feature-flags.json" with { type: "json" };
import * as z from "zod";
import { environmentSchema, readEnvironment } from "../../infra/config.ts";
import { DEPLOYMENTS, full, standard } from "./deployments.ts";
import { allows, statementsIn } from "./policies.ts";
import { at, type Deployment, FLAGS, jobQueueArns, type Resource } from "./templates.ts";

test("functions run Node 24 on arm64, log for as long as is wanted, and hold no secret", () => {
  for (const { id, properties } of standard.ofType("AWS::Lambda::Function")) {
    assert.deepEqual([properties.Runtime, properties.Architectures], ["nodejs24.x", ["arm64"]], id);
    const variables = z.record(z.string(), z.string()).parse(at(properties, "Environment", "Variables") ?? {});
    for (const name of Object.keys(variables)) assert.match(name, /^MERGEYARD_(YARD|STATE_MACHINE|FLEET|SIGNING_KEY)$/);
    assert.notEqual(at(properties, "LoggingConfig", "LogGroup"), undefined, id);
  }
  for (const { id, properties } of standard.ofType("AWS::Logs::LogGroup"))
    assert.equal(properties.RetentionInDays, 30, id);
});

test("uploads reach their function through a queue that keeps what fails", () => {
  const rule = standard.one("AWS::Events::Rule", "Uploads").properties;
  assert.deepEqual(rule.EventPattern, {
    source: ["aws.s3"],
    "detail-type": ["Object Created"],
    detail: {
      bucket: { name: ["yard-bucket"] },
      object: {
        key: [
          { wildcard: "incoming/*/_COMPLETE" },
          { wildcard: "incoming/*.safetensors" },
          { wildcard: "incoming/*.gguf" },
          { wildcard: "incoming/*.json" },
        ],
      },
    },
  });
  const queue = queueOf(standard, "OnUpload");
  assert.equal(at(rule, "Targets", 0, "Arn"), queue.arn);
  assert.equal(at(rule, "Targets", 0, "DeadLetterConfig", "Arn"), queue.deadLetters);
  assert.equal(full.ofType("AWS::SQS::Queue").length, 0, "triggers can be switched off");
});

test("the clock ticks into a queue, with the time that the tick is for", () => {
  const { Target: target, ScheduleExpression: expression } = standard.one("AWS::Scheduler::Schedule").properties;
  assert.equal(expression, "rate(5 minutes)");
  const queue = queueOf(standard, "OnSchedule");
  assert.equal(at(target, "Arn"), queue.arn);
  assert.equal(at(target, "DeadLetterConfig", "Arn"), queue.deadLetters);
  assert.equal(at(target, "Input"), '{"scheduledTime":"<aws.scheduler.scheduled-time>","minutes":5}');
});

/** The queue of a trigger; checks how it feeds its function and what becomes of messages that fail. */
function queueOf(deployment: Deployment, id: string): { readonly arn: string; readonly deadLetters: string } {
  const arnOf = (resource: Resource) => `${resource.stack}/${resource.id}.Arn`;
  const queue = deployment.one("AWS::SQS::Queue", `${id}Queue`);
  const deadLetters = deployment.one("AWS::SQS::Queue", `${id}DeadLetters`);
  assert.deepEqual(queue.properties.RedrivePolicy, { deadLetterTargetArn: arnOf(deadLetters), maxReceiveCount: 5 });
  for (const { properties } of [queue, deadLetters]) assert.equal(properties.SqsManagedSseEnabled, true);
  const source = `arn:aws:sqs:eu-west-1:111122223333:${String(queue.properties.QueueName)}`;
  assert.deepEqual(deadLetters.properties.RedriveAllowPolicy, {
    redrivePermission: "byQueue",
    sourceQueueArns: [source],
  });
  assert.equal(deadLetters.properties.MessageRetentionPeriod, 14 * 86_400);
  const mapping = deployment.one("AWS::Lambda::EventSourceMapping", id);
  assert.equal(mapping.properties.EventSourceArn, arnOf(queue));
  assert.deepEqual(mapping.properties.FunctionResponseTypes, ["ReportBatchItemFailures"]);
  const lambda = deployment.one("AWS::Lambda::Function", id);
  assert.ok(Number(queue.properties.VisibilityTimeout) >= 6 * Number(lambda.properties.Timeout));
  return { arn: arnOf(queue), deadLetters: arnOf(deadLetters) };
}

test("dead letters are sent back as docs/deploy.md says, by who has the runner's policy, and by it alone", () => {
  const text = readFileSync(new URL("../../docs/deploy.md", import.meta.url), "utf8");
  const [, command = ""] = /```sh\n(aws sqs start-message-move-task .*?)```/s.exec(text) ?? [];
  const runner = statementsIn(standard.one("AWS::IAM::ManagedPolicy", "Runner").properties.PolicyDocument);
  const arn = "arn:aws:sqs:eu-west-1:111122223333:";
  const filled = command.replaceAll("REGION:ACCOUNT", "eu-west-1:111122223333").replaceAll("NAME", "test");
  const names = standard.ofType("AWS::SQS::Queue").map(({ properties }) => String(properties.QueueName));
  for (const [option, id] of [
    ["--source-arn", "OnUploadDeadLetters"],
    ["--destination-arn", "OnUploadQueue"],
  ] as const) {
    const queue = standard.one("AWS::SQS::Queue", id);
    assert.ok(filled.includes(`${option} ${arn}${String(queue.properties.QueueName)}`), option);
  }
  for (const { stack, id } of standard.ofType("AWS::SQS::Queue")) {
    const isDead = id.includes("DeadLetters");
    for (const action of ["sqs:StartMessageMoveTask", "sqs:ReceiveMessage", "sqs:DeleteMessage"]) {
      assert.equal(allows(runner, action, `${stack}/${id}.Arn`), isDead, `${action} ${id}`);
    }
    assert.equal(allows(runner, "sqs:SendMessage", `${stack}/${id}.Arn`), !isDead, id);
  }
  assert.equal(names.length, 4);
});

test("every dead letter, late message, unreadable pipeline and broken function raises an alarm that is told", () => {
  const topic = standard.one("AWS::SNS::Topic");
  const alarms = standard.ofType("AWS::CloudWatch::Alarm").map(({ properties }) => properties);
  const names = ["dead-letters", "late", "unreadable-pipeline", "function-errors"];
  assert.deepEqual(
    alarms.map(({ AlarmName }) => AlarmName).sort(),
    [
      "mergeyard-test-queue-blocked",
      ...["clock", "uploads"].flatMap((kind) => names.map((name) => `mergeyard-test-${kind}-${name}`)),
    ].sort(),
  );
  for (const alarm of alarms) {
    assert.deepEqual(alarm.AlarmActions, [`${topic.stack}/${topic.id}.TopicArn`]);
    assert.equal(alarm.TreatMissingData, "notBreaching");
  }
  const queues = standard.ofType("AWS::SQS::Queue").filter(({ id }) => id.includes("DeadLetters"));
  const watched = alarms.map(({ Dimensions }) => at(Dimensions, 0, "Value"));
  for (const { id, properties } of queues) assert.ok(watched.includes(properties.QueueName), id);
});

test("failed runs and blocked queues are told, to a topic that they may publish to", () => {
  const machine = "arn:aws:states:eu-west-1:111122223333:stateMachine:mergeyard-test";
  const ended = (deployment: Deployment) => deployment.one("AWS::Events::Rule", "RunsEnded").properties.EventPattern;
  assert.deepEqual(at(ended(standard), "detail"), {
    stateMachineArn: [machine],
    status: ["FAILED", "TIMED_OUT", "ABORTED"],
  });
  assert.deepEqual(at(ended(full), "detail", "status"), ["FAILED", "TIMED_OUT", "ABORTED", "SUCCEEDED"]);
  const queues = jobQueueArns(full);
  const blocked = full.one("AWS::Events::Rule", "QueueBlocked").properties;
  assert.deepEqual(at(blocked, "EventPattern", "resources"), queues);
  const log = full.one("AWS::Logs::LogGroup", "Jobs");
  assert.deepEqual(at(blocked, "EventPattern", "detail-type"), ["Batch Job Queue Blocked"]);
  const targets = z.array(z.looseObject({ Arn: z.string() })).parse(blocked.Targets);
  assert.ok(targets[1]?.Arn.endsWith(`:log-group:${log.stack}/${log.id}`), "its alarm counts what is logged");
  const counted = full.one("AWS::Logs::MetricFilter", "QueuesBlocked").properties;
  assert.deepEqual(
    [counted.LogGroupName, counted.FilterPattern],
    [`${log.stack}/${log.id}`, '{ $.detail-type = "Batch Job Queue Blocked" }'],
  );
  const topic = full.one("AWS::SNS::Topic");
  assert.match(String(topic.properties.KmsMasterKeyId), /:key\//);
  const allowed = statementsIn(full.one("AWS::SNS::TopicPolicy").properties.PolicyDocument)
    .filter(({ Effect }) => Effect === "Allow")
    .flatMap(({ Principal }) => [at(z.json().parse(Principal), "Service")]);
  assert.deepEqual([...new Set(allowed)].sort(), ["cloudwatch.amazonaws.com", "events.amazonaws.com"]);
  assert.equal(full.one("AWS::SNS::Subscription").properties.Endpoint, "team@example.com");
});

test("metrics are made of events that workers and functions print", () => {
  const filters = standard.ofType("AWS::Logs::MetricFilter").map(({ properties }) => String(properties.FilterPattern));
  const events = filters.flatMap((pattern) => /\$\.event = "([a-z-]+)"/.exec(pattern)?.[1] ?? []);
  assert.deepEqual([...new Set(events)].sort(), ["pipeline-unreadable", "unit-failed", "unit-finished"]);
  const body = String(standard.one("AWS::CloudWatch::Dashboard").properties.DashboardBody);
  const waits = ["Seconds that jobs waited for a machine", "Queues of events"];
  const titles = ["Alarms", "Runs", "Units", "Bytes of finished units", "Fleet", "Failed runs", "Functions", ...waits];
  for (const title of titles) assert.ok(body.includes(`"title":"${title}"`), title);
  assert.match(body, /cost at \$0\.0494 a vCPU hour/);
  assert.match(body, /ApproximateAgeOfOldestMessage/);
  assert.match(String(full.one("AWS::CloudWatch::Dashboard").properties.DashboardBody), /cost at \$0\.05 a vCPU hour/);
});

test("each stack prints what people need of it", () => {
  const outputs = (deployment: Deployment) =>
    deployment.outputs.map((name) => name.replace("Mergeyard-test-", "")).toSorted();
  const always = [
    ...["Storage.YardUri", "Storage.OperatorPolicyArn", "Compute.CpuQueueArn", "Flow.StateMachineArn"],
    ...["Flow.RunnerPolicyArn", "Storage.PublisherPolicyArn", "Observability.TopicArn", "Observability.DashboardName"],
  ];
  const triggers = ["Uploads", "Clock"].flatMap((kind) => [`Flow.${kind}QueueArn`, `Flow.${kind}DeadLettersArn`]);
  assert.deepEqual(outputs(standard), [...always, ...triggers, "Storage.SigningKeyUri"].toSorted());
  const teams = ["Storage.TeamYardsupport", "Storage.TeamYardreaders"];
  assert.deepEqual(outputs(full), [...always, ...teams, "Storage.SigningKeyUri", "Compute.GpuQueueArn"].toSorted());
});

test("every environment's file is a configuration, and the default one deploys unchanged", () => {
  const names = readdirSync(new URL("../../infra/environments", import.meta.url)).map((file) =>
    file.replace(/\.json$/, ""),
  );
  assert.ok(names.includes("default"));
  for (const name of names) assert.equal(readEnvironment(name).name, name);
  assert.deepEqual(readEnvironment("default"), environmentSchema.parse({ name: "default" }));
  assert.throws(() => readEnvironment("../package"));
});

test("the configuration in docs/deploy.md is one, and the stacks that it names are those", () => {
  const text = readFileSync(new URL("../../docs/deploy.md", import.meta.url), "utf8");
  const examples = [...text.matchAll(/```json\n(.*?)```/gs)].map((match): unknown => JSON.parse(match[1] ?? ""));
  assert.equal(examples.length, 1);
  for (const example of examples) environmentSchema.parse({ name: "a", ...z.looseObject({}).parse(example) });
  const named = [...text.matchAll(/^\| `Mergeyard-NAME-(\w+)`/gm)].map((match) => `Mergeyard-test-${match[1]}`);
  assert.deepEqual(named, [...new Set(standard.resources.map(({ stack }) => stack))]);
});

test("a wrong configuration is refused by the field that is wrong", () => {
  const team = { name: "a", principals: ["arn:aws:iam::111122223333:root"] };
  const wrong: readonly [Record<string, unknown>, string][] = [
    [{ gpus: {} }, ""],
    [{ account: "123" }, "account"],
    [{ network: { egress: "open" } }, "network.egress"],
    [{ storage: { runDays: 30 } }, "storage.runDays"],
    [{ cpu: { instances: ["c6in.xlarge"] } }, "cpu.instances.0"],
    [{ cpu: { instances: [] } }, "cpu.instances"],
    [{ teams: [{ ...team, principals: ["*"] }] }, "teams.0.principals.0"],
    [{ teams: [{ ...team, upload: ["../x"] }] }, "teams.0.upload.0"],
    [{ teams: [team, team] }, "teams"],
    [{ sources: [{ bucketArn: "arn:aws:s3:::*" }] }, "sources.0.bucketArn"],
    [{ alerts: { emails: ["nobody"] } }, "alerts.emails.0"],
    [{ triggers: { scheduleMinutes: 7 } }, "triggers.scheduleMinutes"],
  ];
  for (const [configuration, field] of wrong) {
    const { error } = environmentSchema.safeParse({ name: "a", ...configuration });
    assert.ok(
      error?.issues.some((issue) => issue.path.join(".") === field),
      JSON.stringify(configuration),
    );
  }
});

test("every recommended flag of the library is set, and those that differ are known", () => {
  const differing = Object.entries(recommended).filter(([flag, value]) => {
    assert.ok(Object.hasOwn(FLAGS, flag), `cdk.json lacks ${flag}`);
    return JSON.stringify(FLAGS[flag]) !== JSON.stringify(value);
  });
  assert.deepEqual(
    differing.map(([flag]) => flag),
    ["@aws-cdk/core:defaultCrossStackReferences"],
  );
});

test("every fixed name has its environment's in it, so that two can live in one account", () => {
  const fixed = /^(?:LogGroup|Queue|Function|JobQueue|JobDefinition|StateMachine|Topic|Alarm|Dashboard|Alias)?Name$/;
  let names = 0;
  for (const deployment of Object.values(DEPLOYMENTS)) {
    for (const { id, properties } of deployment.resources) {
      for (const [property, value] of Object.entries(properties)) {
        if (!fixed.test(property)) continue;
        assert.match(String(value), /\btest\b/, `${id}.${property}`);
        names += 1;
      }
    }
  }
  assert.ok(names > 60);
});
