// The bucket, its key, and what other teams and accounts may do with them.
import assert from "node:assert/strict";
import { test } from "node:test";
import * as z from "zod";
import { closed, DEPLOYMENTS, full, OTHER_ACCOUNT, standard } from "./deployments.ts";
import { allows, statementsIn } from "./policies.ts";
import { at, BUCKET_ARN, type Deployment, type Value } from "./templates.ts";

const bucketOf = (deployment: Deployment) => deployment.one("AWS::S3::Bucket").properties;
/** The key of the yard's objects. */
const keyOf = (deployment: Deployment) => {
  const [key] = deployment.ofType("AWS::KMS::Key").filter(({ id }) => id.startsWith("Key"));
  assert.ok(key !== undefined);
  return key;
};
const bucketPolicyOf = (deployment: Deployment) =>
  statementsIn(deployment.one("AWS::S3::BucketPolicy").properties.PolicyDocument);

test("the bucket is versioned, encrypted with its own key, closed to the public, and tells EventBridge", () => {
  for (const deployment of Object.values(DEPLOYMENTS)) {
    const bucket = bucketOf(deployment);
    assert.equal(at(bucket, "VersioningConfiguration", "Status"), "Enabled");
    const encryption = at(bucket, "BucketEncryption", "ServerSideEncryptionConfiguration", 0);
    assert.equal(at(encryption, "ServerSideEncryptionByDefault", "SSEAlgorithm"), "aws:kms");
    assert.equal(at(encryption, "BucketKeyEnabled"), true);
    assert.deepEqual(bucket.PublicAccessBlockConfiguration, {
      BlockPublicAcls: true,
      BlockPublicPolicy: true,
      IgnorePublicAcls: true,
      RestrictPublicBuckets: true,
    });
    assert.equal(at(bucket, "OwnershipControls", "Rules", 0, "ObjectOwnership"), "BucketOwnerEnforced");
    assert.equal(at(bucket, "NotificationConfiguration", "EventBridgeConfiguration", "EventBridgeEnabled"), true);
    assert.equal(keyOf(deployment).properties.EnableKeyRotation, true);
  }
  assert.equal(bucketOf(standard).ObjectLockEnabled, undefined);
  assert.equal(bucketOf(full).ObjectLockEnabled, true);
});

test("plain connections are refused, and manifests and channels are only written under a condition", () => {
  const statements = bucketPolicyOf(standard);
  const denied = statements.filter(({ Effect }) => Effect === "Deny");
  const conditions = denied.map(({ Action, Resource, Condition }) => ({ Action, Resource, Condition }));
  const everything = [BUCKET_ARN, `${BUCKET_ARN}/*`];
  assert.deepEqual(conditions, [
    { Action: ["s3:*"], Resource: everything, Condition: { Bool: { "aws:SecureTransport": "false" } } },
    { Action: ["s3:*"], Resource: everything, Condition: { NumericLessThan: { "s3:TlsVersion": 1.2 } } },
    {
      Action: ["s3:PutObject"],
      Resource: [`${BUCKET_ARN}/artifacts/*/manifest.json`],
      Condition: { Null: { "s3:if-none-match": "true" } },
    },
    {
      Action: ["s3:PutObject"],
      Resource: [`${BUCKET_ARN}/channels/*`],
      Condition: { Null: { "s3:if-none-match": "true", "s3:if-match": "true" } },
    },
  ]);
  assert.equal(statements.length, denied.length, "the bucket's policy alone lets nobody in");
});

const ruleSchema = z.looseObject({
  Prefix: z.string().optional(),
  ExpirationInDays: z.int().optional(),
  AbortIncompleteMultipartUpload: z.looseObject({ DaysAfterInitiation: z.int() }).optional(),
  NoncurrentVersionExpiration: z.looseObject({ NoncurrentDays: z.int() }).optional(),
});

test("runs and cache expire, what is published never does, and unfinished uploads are aborted", () => {
  const rules = z.array(ruleSchema).parse(at(bucketOf(standard), "LifecycleConfiguration", "Rules"));
  const expiring = rules.flatMap(({ Prefix, ExpirationInDays }) =>
    ExpirationInDays === undefined ? [] : [[Prefix, ExpirationInDays]],
  );
  assert.deepEqual(expiring, [
    ["runs/", 60],
    ["submitted/", 60],
    ["cache/", 180],
  ]);
  assert.ok(rules.some((rule) => rule.Prefix === undefined && rule.AbortIncompleteMultipartUpload !== undefined));
  const restorable = rules.find((rule) => rule.Prefix === undefined && rule.NoncurrentVersionExpiration !== undefined);
  assert.equal(restorable?.NoncurrentVersionExpiration?.NoncurrentDays, 30);
});

test("data outlives its stack, unless the configuration says otherwise", () => {
  const policies = (deployment: Deployment) =>
    [deployment.one("AWS::S3::Bucket"), ...deployment.ofType("AWS::KMS::Key")].map((entry) => entry.deletionPolicy);
  assert.deepEqual(policies(standard), ["Retain", "Retain", "Retain"]);
  assert.deepEqual(standard.terminationProtected, ["Mergeyard-test-Storage"]);
  assert.deepEqual(policies(closed), ["Delete", "Delete"]);
  assert.deepEqual(closed.terminationProtected, []);
});

test("another account's team is let in by its access point, the bucket and the key, to its own models only", () => {
  const points = full.ofType("AWS::S3::AccessPoint").map(({ properties }) => properties);
  assert.deepEqual(
    points.map(({ Name }) => Name),
    ["mergeyard-test-support", "mergeyard-test-readers"],
  );
  const [point] = points;
  const arn = "arn:aws:s3:eu-west-1:111122223333:accesspoint/mergeyard-test-support";
  const own = statementsIn(point?.Policy);
  const may = (action: string, key: string) => allows(own, action, `${arn}/object/${key}`);
  assert.ok(may("s3:GetObject", "artifacts/support-bot/v1/manifest.json"));
  assert.ok(may("s3:GetObject", "channels/base/latest.json"));
  assert.ok(may("s3:PutObject", "incoming/support-july/1/_COMPLETE"));
  assert.ok(!may("s3:GetObject", "artifacts/sales-bot/v1/manifest.json"));
  assert.ok(!may("s3:GetObject", "artifacts/based/v1/manifest.json"));
  assert.ok(!may("s3:PutObject", "incoming/base/1/_COMPLETE"));
  for (const action of ["s3:PutObject", "s3:DeleteObject"]) {
    for (const key of ["artifacts/support-bot/v1/x", "channels/support-bot/latest.json", "pipelines/p.yaml"]) {
      assert.ok(!may(action, key), `${action} ${key}`);
    }
  }
  assert.ok(!may("s3:DeleteObject", "incoming/support-july/1/_COMPLETE"));
  assert.deepEqual(listed(own), [
    "artifacts/support-*/*",
    "channels/support-*/*",
    "artifacts/base/*",
    "channels/base/*",
    "incoming/support-*/*",
  ]);
  assert.equal(at(point, "PublicAccessBlockConfiguration", "BlockPublicPolicy"), true);

  const consent = bucketPolicyOf(full).filter(({ Effect }) => Effect === "Allow");
  assert.deepEqual(
    consent.map(({ Principal, Condition }) => [Principal, Condition]),
    [
      [{ AWS: OTHER_ACCOUNT }, { StringEquals: { "s3:DataAccessPointArn": arn } }],
      [
        { AWS: "arn:aws:iam::111122223333:role/Serving" },
        { StringEquals: { "s3:DataAccessPointArn": arn.replace("support", "readers") } },
      ],
    ],
    "only through the access points",
  );
  const [, readers] = points;
  assert.ok(!statementsIn(readers?.Policy).some(({ Action }) => Action.includes("s3:PutObject")));

  const key = statementsIn(keyOf(full).properties.KeyPolicy);
  const uses = key.filter(({ Sid }) => Sid === "Teamsupport" || Sid === "Teamreaders");
  assert.deepEqual(
    uses.map(({ Principal, Action }) => [Principal, Action]),
    [
      [{ AWS: OTHER_ACCOUNT }, ["kms:Decrypt", "kms:GenerateDataKey"]],
      [{ AWS: "arn:aws:iam::111122223333:role/Serving" }, ["kms:Decrypt"]],
    ],
  );
});

function listed(statements: ReturnType<typeof statementsIn>): Value | undefined {
  const list = statements.find(({ Action }) => Action.includes("s3:ListBucket"));
  return list?.Condition?.StringLike?.["s3:prefix"];
}

test("nothing deploys code of its own but the functions and the worker", () => {
  const counts = { standard: 7, full: 5, closed: 7 };
  for (const [name, deployment] of Object.entries(DEPLOYMENTS)) {
    assert.deepEqual(
      deployment.resources.filter(({ type }) => type.startsWith("Custom::") || type.includes("CustomResource")),
      [],
    );
    assert.equal(
      deployment.ofType("AWS::Lambda::Function").length,
      Object.entries(counts).find(([key]) => key === name)?.[1],
    );
  }
});
