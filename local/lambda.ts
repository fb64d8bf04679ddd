// Lambda played in this process: functions by name, and the form of results and errors that Step Functions gives them.
import * as z from "zod";
import { MergeyardError } from "../core/error.ts";
import { jsonSchema } from "../core/schema-atoms.ts";
import { stateFailure } from "./asl/failure.ts";
import type { TaskContext, TaskFunction } from "./asl/task.ts";

export type LocalFunction = (payload: unknown, context: TaskContext) => Promise<unknown>;

const invokeSchema = z.strictObject({ FunctionName: z.string().min(1), Payload: jsonSchema.optional() });

/**
 * The task behind `lambda:invoke`. A function's error becomes the state's: its name, and as the cause the JSON that
 * Lambda makes of it; the message of a typed error is its record as JSON, from which record-failure reads it again.
 */
export function createLocalLambda(functions: ReadonlyMap<string, LocalFunction>): TaskFunction {
  return async (input, context) => {
    const parsed = invokeSchema.safeParse(input);
    if (!parsed.success) throw stateFailure("Lambda.InvalidParameterValueException", z.prettifyError(parsed.error));
    const { FunctionName: name, Payload: payload } = parsed.data;
    const run = functions.get(name);
    if (run === undefined) throw stateFailure("Lambda.ResourceNotFoundException", `there is no function ${name}`);
    try {
      const result = await run(payload ?? {}, context);
      return { ExecutedVersion: "$LATEST", Payload: result ?? null, StatusCode: 200 };
    } catch (error) {
      throw functionFailure(error);
    }
  };
}

function functionFailure(error: unknown): Error {
  if (!(error instanceof Error)) return stateFailure("Error", lambdaCause("Error", String(error), ""));
  const message = error instanceof MergeyardError ? JSON.stringify(error) : error.message;
  return stateFailure(error.name, lambdaCause(error.name, message, error.stack ?? ""));
}

/** Lines of the stack that a cause keeps: it is for a person who looks for the place, and causes are short. */
const TRACE_LINES_MAX = 12;

function lambdaCause(errorType: string, errorMessage: string, stack: string): string {
  const trace = stack.split("\n").filter((line) => line.trimStart().startsWith("at "));
  return JSON.stringify({ errorType, errorMessage, trace: trace.slice(0, TRACE_LINES_MAX).map((line) => line.trim()) });
}
