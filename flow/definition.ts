// The state machine that is deployed and the one that runs locally: the same data, machine.asl.json, with the names of
// functions, queue and job definition filled in. CDK passes tokens, the local runner plain names.
import { ERROR_CODES, MergeyardError } from "../core/error.ts";
import machine from "./machine.asl.json" with { type: "json" };

/** What stands for each `${Name}` of the definition. */
export type Substitutions = {
  readonly PlanFunction: string;
  readonly CheckFunction: string;
  readonly PublishFunction: string;
  readonly NotifyFunction: string;
  readonly RecordFailureFunction: string;
  /** Of stages that make universal checkpoints of uploads: the same worker, allowed to write checkpoints. */
  readonly ShardJobDefinition: string;
  readonly WorkerJobDefinition: string;
  /** The same worker with a GPU. */
  readonly GpuWorkerJobDefinition: string;
  readonly CpuQueue: string;
  /** A deployment without GPUs gives names that are none: its plans never ask for them. */
  readonly GpuQueue: string;
};

/** The resources that the definition's tasks name. */
export const LAMBDA_INVOKE = "arn:aws:states:::lambda:invoke";
export const BATCH_SUBMIT_JOB = "arn:aws:states:::batch:submitJob.sync";

/** Failures of the Lambda service itself that are worth another try, by the names Step Functions gives them. */
const LAMBDA_TRANSIENT_ERRORS = [
  "Lambda.AWSLambdaException",
  "Lambda.ClientExecutionTimeoutException",
  "Lambda.SdkClientException",
  "Lambda.ServiceException",
  "Lambda.TooManyRequestsException",
];

/** What every function's Retry names: the codes that the error table calls retryable, and Lambda's own, sorted. */
export function transientErrors(): readonly string[] {
  const codes = Object.entries(ERROR_CODES).flatMap(([code, kind]) => (kind.retryable ? [code] : []));
  return [...codes, ...LAMBDA_TRANSIENT_ERRORS].sort();
}

type Value = null | boolean | number | string | readonly Value[] | Fields;
type Fields = { readonly [name: string]: Value };

/** In an ErrorEquals list, stands for all of `transientErrors()`. */
const TRANSIENT_ERRORS = `\${TransientErrors}`;
const PLACEHOLDER = /\$\{([A-Za-z]+)\}/g;

/** The definition as a JSON value. Throws FlowDefinitionInvalid for a `${Name}` without a substitution. */
export function renderDefinition(substitutions: Substitutions): Fields {
  return fillFields(machine, new Map(Object.entries(substitutions)), "");
}

function fillFields(fields: Fields, names: ReadonlyMap<string, string>, place: string): Fields {
  return Object.fromEntries(
    Object.entries(fields).map(([name, value]) => [
      name,
      fillIn(value, names, place === "" ? name : `${place}.${name}`),
    ]),
  );
}

function fillIn(value: Value, names: ReadonlyMap<string, string>, place: string): Value {
  if (typeof value === "string") return fillText(value, names, place);
  if (value === null || typeof value !== "object") return value;
  if (isList(value)) {
    const items = value.flatMap((item): readonly Value[] => (item === TRANSIENT_ERRORS ? transientErrors() : [item]));
    return items.map((item, index) => fillIn(item, names, `${place}[${index}]`));
  }
  return fillFields(value, names, place);
}

function fillText(text: string, names: ReadonlyMap<string, string>, place: string): string {
  return text.replace(PLACEHOLDER, (placeholder, name: string) => {
    const value = names.get(name);
    if (value !== undefined) return value;
    const expected = [...names.keys()].join(", ");
    throw new MergeyardError("FlowDefinitionInvalid", { where: { field: place }, found: placeholder, expected });
  });
}

function isList(value: Value): value is readonly Value[] {
  return Array.isArray(value);
}
