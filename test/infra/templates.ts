// The templates of an environment, made without bundling, with every intrinsic that our stacks use evaluated to text
// that can be compared: attributes become ARNs or `Stack/LogicalId.Attribute`, imports become what is exported.
import { readFileSync } from "node:fs";
import path from "node:path";
import { App, type Stack } from "aws-cdk-lib";
import { Template } from "aws-cdk-lib/assertions";
import * as z from "zod";
import { environmentSchema } from "../../infra/config.ts";
import { createMergeyard } from "../../infra/mergeyard.ts";

const ROOT = path.resolve(import.meta.dirname, "../..");

export const { context: FLAGS } = z
  .looseObject({ context: z.record(z.string(), z.unknown()) })
  .parse(JSON.parse(readFileSync(path.join(ROOT, "cdk.json"), "utf8")));

export const BUCKET_ARN = "arn:aws:s3:::yard-bucket";
export const KEY_ARN = "arn:aws:kms:eu-west-1:111122223333:key/yard-key";
export const SIGNING_KEY_ARN = "arn:aws:kms:eu-west-1:111122223333:key/signing-key";
const PSEUDO: Readonly<Record<string, string>> = {
  "AWS::Partition": "aws",
  "AWS::Region": "eu-west-1",
  "AWS::AccountId": "111122223333",
  "AWS::URLSuffix": "amazonaws.com",
};

export type Value = null | boolean | number | string | readonly Value[] | { readonly [name: string]: Value };
export type Resource = {
  readonly stack: string;
  readonly id: string;
  readonly type: string;
  /** Evaluated. */
  readonly properties: { readonly [name: string]: Value };
  readonly deletionPolicy: string | undefined;
};

const resourceSchema = z.looseObject({
  Type: z.string(),
  Properties: z.record(z.string(), z.json()).default({}),
  DeletionPolicy: z.string().optional(),
});
const templateSchema = z.looseObject({
  Resources: z.record(z.string(), resourceSchema),
  Outputs: z
    .record(z.string(), z.looseObject({ Value: z.json(), Export: z.looseObject({ Name: z.json() }).optional() }))
    .default({}),
});
type Parsed = z.infer<typeof templateSchema>;

export type Deployment = {
  /** The synthesized construct tree. */
  readonly app: App;
  readonly resources: readonly Resource[];
  /** `Stack.Name` of what the stacks print for people. */
  readonly outputs: readonly string[];
  readonly terminationProtected: readonly string[];
  /** Names under which stacks export values to others, and those that others import. */
  readonly exported: ReadonlySet<string>;
  readonly imported: ReadonlySet<string>;
  /** Of a type, in the order of the templates. */
  ofType(type: string): readonly Resource[];
  /** The only one of a type, or the only one whose id contains the text. */
  one(type: string, id?: string): Resource;
};

/** Synthesizes an environment; `overrides` is what its configuration file would say. */
export function deploy(overrides: Record<string, unknown> = {}): Deployment {
  const app = new App({ context: { ...FLAGS, "aws:cdk:bundling-stacks": [] } });
  const environment = environmentSchema.parse({ name: "test", ...overrides });
  const stacks: readonly Stack[] = Object.values(createMergeyard(app, environment, path.join(ROOT, "workers")));
  const templates = new Map(
    stacks.map((stack) => [stack.stackName, templateSchema.parse(Template.fromStack(stack).toJSON())]),
  );
  const exported = exportsOf(templates);
  const resources = [...templates].flatMap(([stack, { Resources }]) =>
    Object.entries(Resources).map(([id, { Type, Properties, DeletionPolicy }]): Resource => {
      const properties = evaluate({ stack, exported, template: Resources }, Properties);
      if (!isRecord(properties)) throw new Error(`${stack}/${id} has no properties`);
      return { stack, id, type: Type, properties, deletionPolicy: DeletionPolicy };
    }),
  );
  const ofType = (type: string) => resources.filter((resource) => resource.type === type);
  return {
    app,
    resources,
    outputs: [...templates].flatMap(([stack, { Outputs }]) =>
      Object.entries(Outputs).flatMap(([name, { Export }]) => (Export === undefined ? [`${stack}.${name}`] : [])),
    ),
    exported: new Set(exported.keys()),
    imported: new Set([...templates.values()].flatMap(({ Resources }) => importsIn(Resources))),
    terminationProtected: stacks.filter((stack) => stack.terminationProtection).map((stack) => stack.stackName),
    ofType,
    one(type, id = "") {
      const [found, second] = ofType(type).filter((resource) => resource.id.includes(id));
      if (found === undefined || second !== undefined) throw new Error(`${found ? "several" : "no"} ${type} ${id}`);
      return found;
    },
  };
}

type Scope = {
  readonly stack: string;
  readonly exported: ReadonlyMap<string, string>;
  readonly template: Parsed["Resources"];
};

/** Values by their export names; exports name nothing but their own stack's things. */
function exportsOf(templates: ReadonlyMap<string, Parsed>): ReadonlyMap<string, string> {
  const exported = new Map<string, string>();
  for (const [stack, { Outputs, Resources }] of templates) {
    for (const { Value, Export } of Object.values(Outputs)) {
      if (Export === undefined) continue;
      const scope = { stack, exported, template: Resources };
      exported.set(String(evaluate(scope, Export.Name)), String(evaluate(scope, Value)));
    }
  }
  return exported;
}

function importsIn(value: unknown): readonly string[] {
  return [...JSON.stringify(value).matchAll(/"Fn::ImportValue":"([^"]+)"/g)].map(([, name]) => name ?? "");
}

/** Evaluates every intrinsic; refuses one that it does not know. */
function evaluate(scope: Scope, value: Value): Value {
  if (Array.isArray(value)) return value.map((item: Value) => evaluate(scope, item));
  if (!isRecord(value)) return value;
  const [[name, argument] = ["", null], second] = Object.entries(value);
  if (second === undefined && (name === "Ref" || name.startsWith("Fn::"))) return intrinsic(scope, name, argument);
  return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, evaluate(scope, item)]));
}

function intrinsic(scope: Scope, name: string, argument: Value): Value {
  if (name === "Ref") return reference(scope, String(argument));
  if (name === "Fn::GetAtt" && Array.isArray(argument))
    return attribute(scope, String(argument[0]), String(argument[1]));
  if (name === "Fn::ImportValue") {
    const found = scope.exported.get(String(evaluate(scope, argument)));
    if (found === undefined) throw new Error(`nothing exports ${JSON.stringify(argument)}`);
    return found;
  }
  if (name === "Fn::Join" && Array.isArray(argument)) {
    const parts = evaluate(scope, argument[1] ?? []);
    if (Array.isArray(parts)) return parts.map(String).join(String(argument[0]));
  }
  if (name === "Fn::Sub" && typeof argument === "string") {
    return argument.replace(/\$\{([\w:]+)\}/g, (_, text: string) => String(reference(scope, text)));
  }
  if (name === "Fn::Base64") return evaluate(scope, argument);
  if (name === "Fn::Select" || name === "Fn::GetAZs" || name === "Fn::Cidr")
    return `${name} ${JSON.stringify(argument)}`;
  throw new Error(`${name} of ${JSON.stringify(argument)}`);
}

function reference({ stack, template }: Scope, id: string): string {
  const type = template[id]?.Type;
  if (type === "AWS::S3::Bucket") return BUCKET_ARN.split(":::")[1] ?? "";
  return PSEUDO[id] ?? (type === "AWS::SNS::Topic" ? `${stack}/${id}.TopicArn` : `${stack}/${id}`);
}

function attribute({ stack, template }: Scope, id: string, name: string): string {
  const type = template[id]?.Type;
  if (type === undefined) throw new Error(`${stack} has no ${id}`);
  if (type === "AWS::S3::Bucket" && name === "Arn") return BUCKET_ARN;
  if (type === "AWS::KMS::Key" && name === "Arn") return id.startsWith("SigningKey") ? SIGNING_KEY_ARN : KEY_ARN;
  return `${stack}/${id}.${name}`;
}

export function isRecord(value: Value | undefined): value is { readonly [name: string]: Value } {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** The value at a path of properties and indexes; undefined when there is none. */
export function at(value: Value | undefined, ...place: readonly (string | number)[]): Value | undefined {
  let found = value;
  for (const part of place) {
    if (Array.isArray(found) && typeof part === "number") found = found[part];
    else if (isRecord(found)) found = found[part];
    else return undefined;
  }
  return found;
}

/** ARNs of an environment's job queues, by the names that they have. */
export function jobQueueArns(deployment: Deployment): string[] {
  const names = deployment.ofType("AWS::Batch::JobQueue").map(({ properties }) => String(properties.JobQueueName));
  return names.map((name) => `arn:aws:batch:eu-west-1:111122223333:job-queue/${name}`);
}
