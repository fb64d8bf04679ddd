// The subset of Amazon States Language that the interpreter runs, as zod schemas: JSONata only, every field listed,
// everything else refused. docs/flow.md is the same list in words. Nested machines are parsed one level at a time by
// load.ts, which also checks what a schema cannot (names that must exist, names that must differ).
import * as z from "zod";
import { jsonSchema } from "../../core/schema-atoms.ts";
import { NAME_CHARACTERS_MAX, SECONDS_MAX } from "./limits.ts";

const name = z.string().min(1).max(NAME_CHARACTERS_MAX);
const comment = z.string().optional();
const expression = z.string().regex(/^\{%.*%\}$/s, "must be a JSONata expression in {% %}");
const seconds = z.union([z.int().positive().max(SECONDS_MAX), expression]);

/** A variable's name: a Unicode identifier; `states` is the language's own. */
const variable = z
  .string()
  .max(NAME_CHARACTERS_MAX)
  .regex(/^[\p{ID_Start}_][\p{ID_Continue}]*$/u, "must be an identifier")
  .refine((value) => value !== "states", "must not be `states`");
const assign = z.record(variable, jsonSchema).optional();
const output = jsonSchema.optional();

const base = { Comment: comment, QueryLanguage: z.literal("JSONata").optional() };
const data = { Assign: assign, Output: output };
const exit = { Next: name.optional(), End: z.literal(true).optional() };

const retrier = z.strictObject({
  ErrorEquals: z.array(z.string().min(1)).min(1),
  IntervalSeconds: z.int().positive().max(SECONDS_MAX).default(1),
  MaxAttempts: z.int().nonnegative().max(99_999_999).default(3),
  BackoffRate: z.number().min(1).default(2),
  MaxDelaySeconds: z.int().positive().max(31_622_400).optional(),
  JitterStrategy: z.enum(["NONE", "FULL"]).default("NONE"),
  Comment: comment,
});
const catcher = z.strictObject({
  ErrorEquals: z.array(z.string().min(1)).min(1),
  Next: name,
  Assign: assign,
  Output: output,
  Comment: comment,
});
const handlers = { Retry: z.array(retrier).default([]), Catch: z.array(catcher).default([]) };

/** A machine inside a machine; its states are parsed when it is loaded. */
const inner = { Comment: comment, StartAt: name, States: z.record(name, jsonSchema) };

const pass = z.strictObject({ Type: z.literal("Pass"), ...base, ...data, ...exit });
const succeed = z.strictObject({ Type: z.literal("Succeed"), ...base, Output: output });
const fail = z.strictObject({
  Type: z.literal("Fail"),
  ...base,
  Error: z.string().optional(),
  Cause: z.string().optional(),
});
const wait = z.strictObject({
  Type: z.literal("Wait"),
  ...base,
  ...data,
  ...exit,
  Seconds: z.union([z.int().nonnegative().max(SECONDS_MAX), expression]).optional(),
  Timestamp: z.string().optional(),
});
const choice = z.strictObject({
  Type: z.literal("Choice"),
  ...base,
  ...data,
  Choices: z
    .array(z.strictObject({ Condition: z.union([expression, z.boolean()]), Next: name, ...data, Comment: comment }))
    .min(1),
  Default: name.optional(),
});
const task = z.strictObject({
  Type: z.literal("Task"),
  ...base,
  ...data,
  ...exit,
  ...handlers,
  Resource: z.string().min(1),
  Arguments: jsonSchema.optional(),
  TimeoutSeconds: seconds.optional(),
  HeartbeatSeconds: seconds.optional(),
});
const parallel = z.strictObject({
  Type: z.literal("Parallel"),
  ...base,
  ...data,
  ...exit,
  ...handlers,
  Arguments: jsonSchema.optional(),
  Branches: z.array(z.strictObject(inner)).min(1),
});
const map = z.strictObject({
  Type: z.literal("Map"),
  ...base,
  ...data,
  ...exit,
  ...handlers,
  Items: z.union([z.array(jsonSchema), expression]).optional(),
  ItemSelector: jsonSchema.optional(),
  MaxConcurrency: z.union([z.int().nonnegative(), expression]).default(0),
  ItemProcessor: z.strictObject({
    ...inner,
    ProcessorConfig: z
      .strictObject({
        Mode: z.enum(["INLINE", "DISTRIBUTED"]).default("INLINE"),
        ExecutionType: z.enum(["STANDARD", "EXPRESS"]).optional(),
      })
      .default({ Mode: "INLINE" }),
  }),
  /** Names the map's child executions on the service; it means nothing here. */
  Label: z.string().max(40).optional(),
});

export const stateSchema = z.discriminatedUnion("Type", [pass, succeed, fail, wait, choice, task, parallel, map]);

export const machineSchema = z.strictObject({
  ...inner,
  QueryLanguage: z.literal("JSONata"),
  Version: z.literal("1.0").optional(),
  TimeoutSeconds: z.int().positive().max(SECONDS_MAX).optional(),
});

export type StateDocument = z.infer<typeof stateSchema>;
export type StateOfType<Type extends StateDocument["Type"]> = Extract<StateDocument, { Type: Type }>;
export type RetrierDocument = z.infer<typeof retrier>;
export type CatcherDocument = z.infer<typeof catcher>;
