// Who may do what: shown from both sides. The real steps, run under the deployed policies, succeed; and what a role
// must not do is not allowed.
import assert from "node:assert/strict";
import { test } from "node:test";
import { layout } from "../../core/artifact/layout.ts";
import { WILDCARD_REASONS } from "../../infra/wildcards.ts";
import { DEPLOYMENTS, full, ROLE_NAMES, role, SOURCE, SOURCE_KEY, standard } from "./deployments.ts";
import { allows, objectArn, rolesOf, statementsIn } from "./policies.ts";
import { runUnderRoles } from "./run-under-roles.ts";
import { at, BUCKET_ARN, KEY_ARN, SIGNING_KEY_ARN } from "./templates.ts";

test("a run of every step succeeds under the deployed policies, and a failed one is recorded", async () => {
  await runUnderRoles({
    plan: role("Plan"),
    worker: role("Worker"),
    sharder: role("Sharder"),
    check: role("Check"),
    publish: role("Publish"),
    notify: role("Notify"),
    recordFailure: role("RecordFailure"),
    onUpload: role("OnUpload"),
    onSchedule: role("OnSchedule"),
    operator: statementsIn(standard.one("AWS::IAM::ManagedPolicy", "Operator").properties.PolicyDocument),
    runner: statementsIn(standard.one("AWS::IAM::ManagedPolicy", "Runner").properties.PolicyDocument),
    publisher: statementsIn(standard.one("AWS::IAM::ManagedPolicy", "Publisher").properties.PolicyDocument),
  });
});

/** One key of each kind that a yard has. */
const KEYS = {
  marker: "yard.json",
  pipeline: layout.pipeline("p"),
  upload: `${layout.upload("m", "1")}model.safetensors`,
  checkpoint: `${layout.checkpoint("m", "sha256:0123456789abcdef")}universal.json`,
  version: layout.versionManifest("m", "v"),
  channel: layout.channel("m", "latest"),
  cache: layout.cache("sha256:00"),
  submitted: layout.submitted("sha256:0123456789abcdef"),
  plan: layout.plan("r"),
  recipe: layout.recipe("r"),
  receipt: layout.receipt("r", 0, 0),
  intermediate: `${layout.stageOutput("r", 1)}model.safetensors`,
  output: layout.unitOutput("r", "model.safetensors"),
  progress: layout.progress("r", 0, 0),
  unitFailure: layout.unitFailure("r", 0, 0),
  failure: layout.failure("r", 1),
  result: layout.result("r"),
  events: layout.events("r"),
  report: layout.report("r"),
} as const;

test("each role writes the kinds of objects that are its own, and no others", () => {
  const written: Readonly<Record<string, readonly (keyof typeof KEYS)[]>> = {
    Plan: ["plan", "recipe"],
    Worker: ["receipt", "output", "intermediate", "unitFailure", "progress"],
    Sharder: ["checkpoint", "cache", "receipt", "intermediate", "unitFailure", "progress"],
    Check: [],
    Publish: ["version", "channel", "cache", "result"],
    Notify: ["events", "report"],
    RecordFailure: ["unitFailure", "failure"],
    OnUpload: [],
    OnSchedule: [],
    StateMachine: [],
    Start: [],
    CpuMachine: [],
    SchedulerRoleForTarget330d84D41B3B05: [],
  };
  assert.deepEqual(ROLE_NAMES, Object.keys(written).sort());
  for (const [name, kinds] of Object.entries(written)) {
    for (const [kind, key] of Object.entries(KEYS)) {
      const isOwn = kinds.some((own) => own === kind);
      assert.equal(allows(role(name), "s3:PutObject", objectArn(key)), isOwn, `${name} writes ${kind}`);
    }
  }
});

test("nobody in the pipeline removes anything or changes the bucket", () => {
  const removing = ["s3:DeleteObject", "s3:DeleteObjectVersion", "s3:PutBucketPolicy", "s3:PutLifecycleConfiguration"];
  for (const name of ROLE_NAMES) {
    for (const action of removing) {
      for (const resource of [BUCKET_ARN, ...Object.values(KEYS).map(objectArn)]) {
        assert.ok(!allows(role(name), action, resource), `${name} may ${action}`);
      }
    }
  }
  const operator = statementsIn(standard.one("AWS::IAM::ManagedPolicy", "Operator").properties.PolicyDocument);
  for (const key of Object.values(KEYS)) {
    assert.ok(!allows(operator, "s3:DeleteObjectVersion", objectArn(key)), "what an operator deletes can be restored");
  }
});

test("no statement allows every action of a service", () => {
  for (const deployment of Object.values(DEPLOYMENTS)) {
    const statements = rolesOf(deployment).flatMap((entry) => entry.statements);
    for (const { Action } of statements) for (const action of Action) assert.doesNotMatch(action, /\*/);
  }
});

test("every statement on resources with a * has its reason, and every reason its statement", () => {
  const needed = new Set<string>();
  for (const deployment of Object.values(DEPLOYMENTS)) {
    const managed = deployment.ofType("AWS::IAM::ManagedPolicy").map(({ properties }) => properties.PolicyDocument);
    const statements = [...rolesOf(deployment).flatMap((entry) => entry.statements), ...managed.flatMap(statementsIn)];
    for (const statement of statements.filter(({ Resource }) => Resource.some((name) => name.includes("*")))) {
      const name = statement.Sid ?? statement.Action.toSorted().join(",");
      assert.ok(
        Object.hasOwn(WILDCARD_REASONS, name),
        `infra/wildcards.ts: no reason for ${name}: ${JSON.stringify(statement)}`,
      );
      needed.add(name);
    }
  }
  assert.deepEqual(
    Object.keys(WILDCARD_REASONS).toSorted(),
    [...needed].toSorted(),
    "infra/wildcards.ts has stale entries",
  );
});

test("policies are within IAM's sizes, with the longest name that a bucket can have", () => {
  const sizeOf = (statements: unknown) =>
    JSON.stringify(statements)?.replaceAll("yard-bucket", "b".repeat(63)).length ?? 0;
  for (const deployment of Object.values(DEPLOYMENTS)) {
    for (const { id, properties } of deployment.ofType("AWS::IAM::ManagedPolicy")) {
      assert.ok(sizeOf(properties.PolicyDocument) < 6144, `${id}: ${sizeOf(properties.PolicyDocument)}`);
    }
    for (const { id, statements } of rolesOf(deployment)) {
      assert.ok(sizeOf(statements) < 10_240, `${id}: ${sizeOf(statements)}`);
    }
  }
});

test("the only policies of AWS's own are those that Batch machines need", () => {
  for (const deployment of Object.values(DEPLOYMENTS)) {
    const managed = rolesOf(deployment).flatMap(({ id, managedPolicies }) => managedPolicies.map((arn) => [id, arn]));
    for (const [id, arn] of managed) {
      assert.match(id ?? "", /^(Cpu|Gpu)MachineRole/);
      assert.equal(arn, "arn:aws:iam::aws:policy/service-role/AmazonEC2ContainerServiceforEC2Role");
    }
  }
});

test("the key is used through S3 alone, and other buckets only by who reads models", () => {
  const through = { StringEquals: { "kms:ViaService": "s3.eu-west-1.amazonaws.com" } };
  for (const { id, statements } of rolesOf(full)) {
    const keys = statements.filter(({ Action }) => Action.some((action) => action.startsWith("kms:")));
    for (const { Sid, Condition, Resource } of keys) {
      if (Sid === "SignVersions" || Sid === "NameSigningKey") assert.deepEqual(Resource, [SIGNING_KEY_ARN]);
      else if (Sid === "YardKey") assert.deepEqual([Resource, Condition], [[KEY_ARN], through]);
      else assert.deepEqual([Sid, Resource], ["SourceKey", [SOURCE_KEY]]);
    }
    const reads = /^(Plan|Worker|Sharder|Publish|GpuWorker)Role/.test(id);
    assert.equal(allows(statements, "s3:GetObject", `${SOURCE}/a/model.safetensors`), reads, id);
    assert.ok(!allows(statements, "s3:PutObject", `${SOURCE}/a/model.safetensors`), id);
  }
});

test("publish alone signs, with a key for signing that others may only check with", () => {
  const key = standard.one("AWS::KMS::Key", "SigningKey");
  assert.deepEqual([key.properties.KeyUsage, key.properties.KeySpec], ["SIGN_VERIFY", "ECC_NIST_P256"]);
  for (const name of ROLE_NAMES) {
    assert.equal(allows(role(name), "kms:Sign", SIGNING_KEY_ARN), name === "Publish", `${name} signs`);
    assert.ok(!allows(role(name), "kms:Sign", KEY_ARN), `${name} signs with the yard's key`);
  }
  const sign = role("Publish").find(({ Action }) => Action.includes("kms:Sign"));
  assert.deepEqual(sign?.Condition, {
    StringEquals: { "kms:SigningAlgorithm": "ECDSA_SHA_256", "kms:MessageType": "DIGEST" },
  });
  const owners = statementsIn(key.properties.KeyPolicy).map(({ Principal }) => Principal);
  assert.deepEqual(owners, [{ AWS: "arn:aws:iam::111122223333:root" }], "the key's own policy lets nobody else in");
  for (const { properties } of standard.ofType("AWS::IAM::ManagedPolicy")) {
    const statements = statementsIn(properties.PolicyDocument);
    assert.ok(!allows(statements, "kms:Sign", SIGNING_KEY_ARN), "people sign nothing");
  }
  const variables = (name: string, deployment = standard) =>
    at(deployment.one("AWS::Lambda::Function", name).properties, "Environment", "Variables", "MERGEYARD_SIGNING_KEY");
  assert.equal(variables("Publish"), `awskms:///${SIGNING_KEY_ARN}`);
  assert.equal(variables("Plan"), undefined);
  assert.equal(variables("Publish", DEPLOYMENTS.closed), undefined);
  assert.equal(DEPLOYMENTS.closed.ofType("AWS::KMS::Key").length, 1, "signing: false makes no key");
});
