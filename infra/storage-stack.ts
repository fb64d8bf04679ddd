// What outlives everything else: the yard's bucket, its key, the key that signs versions, and who outside the pipeline
// may use them.
import { CfnOutput, Duration, RemovalPolicy, Stack, type StackProps, Validations } from "aws-cdk-lib";
import { AnyPrincipal, Effect, ManagedPolicy, PolicyStatement, ServicePrincipal } from "aws-cdk-lib/aws-iam";
import { Key, KeySpec, KeyUsage } from "aws-cdk-lib/aws-kms";
import { BlockPublicAccess, Bucket, BucketEncryption, CfnBucket, ObjectOwnership } from "aws-cdk-lib/aws-s3";
import { flattenCfnReference } from "cdk-nag/lib/utils/flatten-cfn-reference.js";
import type { Construct } from "constructs";
import type { Environment } from "./config.ts";
import { addTeam } from "./team-access.ts";
import { allow, type YardPlace, yardStatements } from "./yard-access.ts";

export class StorageStack extends Stack {
  readonly bucket: Bucket;
  readonly key: Key;
  readonly place: YardPlace;
  /** URI of the yard: the whole bucket. */
  readonly yardUri: string;

  constructor(scope: Construct, id: string, environment: Environment, props: StackProps) {
    super(scope, id, { ...props, terminationProtection: environment.keepData });
    const removalPolicy = environment.keepData ? RemovalPolicy.RETAIN : RemovalPolicy.DESTROY;
    this.key = new Key(this, "Key", {
      description: `Mergeyard ${environment.name}: the yard's objects and alerts`,
      alias: `mergeyard/${environment.name}`,
      enableKeyRotation: true,
      removalPolicy,
    });
    this.key.addToResourcePolicy(alertsUseKey());
    this.bucket = createBucket(this, environment, this.key, removalPolicy);
    for (const statement of bucketGuards(this.bucket)) this.bucket.addToResourcePolicy(statement);
    const signingKeyArn = environment.signing ? createSigningKey(this, environment, removalPolicy).keyArn : undefined;
    this.place = { bucketArn: this.bucket.bucketArn, keyArn: this.key.keyArn, signingKeyArn };
    this.yardUri = `s3://${this.bucket.bucketName}`;
    // What triggers alone import stays when they are switched off: it could not go while they are there.
    this.exportValue(this.bucket.bucketName);
    for (const team of environment.teams) {
      const alias = addTeam(this, environment, team, this.bucket, this.key);
      new CfnOutput(this, `TeamYard${team.name}`, { value: `s3://${alias}` });
    }
    const operator = new ManagedPolicy(this, "Operator", {
      description: "Makes the yard, edits its pipelines, moves channels, removes what is not needed",
      statements: [
        ...yardStatements(this, "operator", this.place, environment.sources),
        ...(signingKeyArn === undefined ? [] : [allow("SigningKey", ["kms:GetPublicKey"], [signingKeyArn])]),
      ],
    });
    const publisher = new ManagedPolicy(this, "Publisher", {
      description: "Makes versions of folders, and moves channels to them",
      statements: yardStatements(this, "publisher", this.place, []),
    });
    if (signingKeyArn !== undefined) new CfnOutput(this, "SigningKeyUri", { value: `awskms:///${signingKeyArn}` });
    new CfnOutput(this, "YardUri", { value: this.yardUri });
    new CfnOutput(this, "OperatorPolicyArn", { value: operator.managedPolicyArn });
    new CfnOutput(this, "PublisherPolicyArn", { value: publisher.managedPolicyArn });
  }

  /** Names under which other stacks' templates import this one's values, by the values as they are called here. */
  imports(): ReadonlyMap<string, string> {
    const { bucketArn } = this.place;
    const name = flattenCfnReference(this.resolve(this.exportValue(bucketArn)));
    return new Map([[flattenCfnReference(this.resolve(bucketArn)), name]]);
  }
}

/** Signs manifests. Its policy leaves it to the account who may use it, and of ours publish alone is let. */
function createSigningKey(stack: Stack, { name }: Environment, removalPolicy: RemovalPolicy): Key {
  return new Key(stack, "SigningKey", {
    description: `Mergeyard ${name}: signs published versions`,
    alias: `mergeyard/${name}-signing`,
    keyUsage: KeyUsage.SIGN_VERIFY,
    keySpec: KeySpec.ECC_NIST_P256,
    removalPolicy,
  });
}

function createBucket(stack: Stack, environment: Environment, key: Key, removalPolicy: RemovalPolicy): Bucket {
  const { storage } = environment;
  const bucket = new Bucket(stack, "Yard", {
    versioned: true,
    encryption: BucketEncryption.KMS,
    encryptionKey: key,
    bucketKeyEnabled: true,
    enforceSSL: true,
    minimumTLSVersion: 1.2,
    blockPublicAccess: BlockPublicAccess.BLOCK_ALL,
    objectOwnership: ObjectOwnership.BUCKET_OWNER_ENFORCED,
    objectLockEnabled: storage.objectLock ? true : undefined,
    removalPolicy,
    lifecycleRules: [
      {
        id: "unfinished-uploads",
        abortIncompleteMultipartUploadAfter: Duration.days(storage.unfinishedUploadDays),
      },
      {
        id: "runs",
        prefix: "runs/",
        expiration: Duration.days(storage.runDays),
        // Output of units is copied into its version; kept longer it would be stored twice.
        noncurrentVersionExpiration: Duration.days(1),
      },
      // Runs keep their recipe; what was sent is read once, when a run is planned.
      { id: "submitted", prefix: "submitted/", expiration: Duration.days(storage.runDays) },
      { id: "cache", prefix: "cache/", expiration: Duration.days(storage.cacheDays) },
      {
        id: "overwritten",
        noncurrentVersionExpiration: Duration.days(storage.restoreDays),
      },
      { id: "delete-markers", expiredObjectDeleteMarker: true },
    ],
  });
  Validations.of(bucket).acknowledge({
    id: "AwsSolutions-S1",
    reason: "who read what is in CloudTrail's data events, an account's choice; access logs would be a weaker copy",
  });
  // By the property itself: the construct's own option deploys a function for it.
  const resource = bucket.node.defaultChild;
  if (!(resource instanceof CfnBucket)) throw new Error("the bucket's resource is not a CfnBucket");
  resource.notificationConfiguration = { eventBridgeConfiguration: { eventBridgeEnabled: true } };
  return bucket;
}

/**
 * What nobody may do, whatever else they were allowed: write a manifest other than as a new object, or a channel other
 * than by compare-and-swap.
 */
function bucketGuards(bucket: Bucket): PolicyStatement[] {
  const deny = (sid: string, pattern: string, absent: readonly string[]) =>
    new PolicyStatement({
      sid,
      effect: Effect.DENY,
      principals: [new AnyPrincipal()],
      actions: ["s3:PutObject"],
      resources: [bucket.arnForObjects(pattern)],
      conditions: { Null: Object.fromEntries(absent.map((name) => [name, "true"])) },
    });
  return [
    deny("ManifestsOnce", "artifacts/*/manifest.json", ["s3:if-none-match"]),
    deny("ChannelsBySwap", "channels/*", ["s3:if-none-match", "s3:if-match"]),
  ];
}

/** Alarms and rules publish to an encrypted topic; whose they may be, the topic's own policy says. */
function alertsUseKey(): PolicyStatement {
  const statement = allow("Alerts", ["kms:Decrypt", "kms:GenerateDataKey"], ["*"]);
  const services = ["cloudwatch.amazonaws.com", "events.amazonaws.com"];
  statement.addPrincipals(...services.map((service) => new ServicePrincipal(service)));
  return statement;
}
