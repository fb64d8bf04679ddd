// What other teams and accounts may do: one access point a team, through which it drops uploads and pulls versions of
// the models it was given. A caller from another account needs all three: the access point's policy, the bucket's
// consent, and the key's; forgetting the key is the usual failure.
import { type Stack, Token } from "aws-cdk-lib";
import { ArnPrincipal, type PolicyStatement } from "aws-cdk-lib/aws-iam";
import type { Key } from "aws-cdk-lib/aws-kms";
import { type Bucket, CfnAccessPoint } from "aws-cdk-lib/aws-s3";
import type { Environment } from "./config.ts";
import { allow, arnOf } from "./yard-access.ts";

type Team = Environment["teams"][number];

/** A push reads its own record and marker back, and goes on with what it sent before. */
const UPLOAD_ACTIONS = ["s3:GetObject", "s3:PutObject", "s3:AbortMultipartUpload", "s3:ListMultipartUploadParts"];

/** Makes the team's access point; returns its alias, which stands for a bucket's name in `s3://` addresses. */
export function addTeam(stack: Stack, environment: Environment, team: Team, bucket: Bucket, key: Key): string {
  const name = `mergeyard-${environment.name}-${team.name}`;
  const arn = arnOf(stack, "s3", "accesspoint", name);
  const statements = accessStatements(team, arn, `${arn}/object`);
  const point = new CfnAccessPoint(stack, `Team${team.name}`, {
    bucket: bucket.bucketName,
    name,
    policy: {
      Version: "2012-10-17",
      Statement: statements.map((statement) => statement.toStatementJson()),
    },
    publicAccessBlockConfiguration: {
      blockPublicAcls: true,
      blockPublicPolicy: true,
      ignorePublicAcls: true,
      restrictPublicBuckets: true,
    },
  });
  const viaPoint = { StringEquals: { "s3:DataAccessPointArn": arn } };
  const consent = allow(
    `Team${compact(team.name)}`,
    ["s3:ListBucket", ...(team.upload.length === 0 ? ["s3:GetObject"] : UPLOAD_ACTIONS)],
    [bucket.bucketArn, bucket.arnForObjects("*")],
    viaPoint,
  );
  bucket.addToResourcePolicy(forTeam(team, consent));
  const keyUse = allow(
    `Team${compact(team.name)}`,
    ["kms:Decrypt", ...(team.upload.length === 0 ? [] : ["kms:GenerateDataKey"])],
    ["*"],
    { StringEquals: { "kms:ViaService": `s3.${stack.region}.${stack.urlSuffix}` } },
  );
  key.addToResourcePolicy(forTeam(team, keyUse));
  return Token.asString(point.attrAlias);
}

function accessStatements(team: Team, arn: string, objects: string): PolicyStatement[] {
  const folders = team.read.flatMap((model) => [`artifacts/${model}/*`, `channels/${model}/*`]);
  const uploads = team.upload.map((model) => `incoming/${model}/*`);
  const statements = [
    allow("Pull", ["s3:GetObject"], [`${objects}/yard.json`, ...folders.map((folder) => `${objects}/${folder}`)]),
    allow("List", ["s3:ListBucket"], [arn], { StringLike: { "s3:prefix": [...folders, ...uploads] } }),
  ];
  if (uploads.length > 0) {
    statements.push(
      allow(
        "Upload",
        UPLOAD_ACTIONS,
        uploads.map((upload) => `${objects}/${upload}`),
      ),
    );
  }
  return statements.map((statement) => forTeam(team, statement));
}

function forTeam(team: Team, statement: PolicyStatement): PolicyStatement {
  statement.addPrincipals(...team.principals.map((arn) => new ArnPrincipal(arn)));
  return statement;
}

/** Statement names hold letters and digits only. */
function compact(name: string): string {
  return name.replace(/[^A-Za-z0-9]/g, "");
}
