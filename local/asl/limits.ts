// Bounds of the interpreter. The ones marked as the service's are AWS Step Functions quotas: a machine that passes here
// must not fail there. The others keep one expression from taking the whole process.

/** Bytes of JSON (UTF-8) of any input, argument, result or output. The service's; hard. */
export const PAYLOAD_BYTES_MAX = 262_144;
/** Bytes of all variables of one execution. The service's. */
export const VARIABLE_BYTES_MAX = 10 * 1024 * 1024;
/** Characters of a state's or a variable's name. The service's. */
export const NAME_CHARACTERS_MAX = 80;
/** Characters of an error's cause; longer ones are cut. The service's. */
export const CAUSE_CHARACTERS_MAX = 32_768;
/** Characters of an error's name; longer ones are cut. The service's. */
export const ERROR_CHARACTERS_MAX = 256;
/** Seconds of any timeout, heartbeat or wait. The service's. */
export const SECONDS_MAX = 99_999_999;
/** Iterations of a Map at one time, whatever MaxConcurrency says. The service's for inline maps; ours for all. */
export const MAP_CONCURRENCY_MAX = 40;
/** Bytes of a definition as JSON. The service's. */
export const DEFINITION_BYTES_MAX = 1_048_576;
/** Milliseconds one expression may take. Ours: they are a few operators each; more is an endless recursion. */
export const EXPRESSION_MS_MAX = 5000;
/** Depth of one expression's evaluation. Ours. */
export const EXPRESSION_DEPTH_MAX = 500;
/** Items of any array that an expression makes. Ours: a longer one cannot fit the payload limit usefully. */
export const EXPRESSION_ITEMS_MAX = 100_000;
/** Nesting of a value that enters or leaves an expression. Ours: deeper recursion would overflow the stack. */
export const VALUE_DEPTH_MAX = 500;
/** Milliseconds a task is given to end after it was told to, before the execution goes on without it. Ours. */
export const GRACE_MS = 40_000;
