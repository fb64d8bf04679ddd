// What the interpreter does not support, or Amazon States Language does not allow, is refused when a definition is
// loaded, with the place in the definition. docs/flow.md lists the same.
import assert from "node:assert/strict";
import { test } from "node:test";
import { MergeyardError } from "../../../core/error.ts";
import type { Json, JsonObject } from "../../../core/json.ts";
import { loadMachine } from "../../../local/asl/load.ts";
import { call, LAMBDA } from "./machine-case.ts";

const pass: JsonObject = { Type: "Pass", End: true };
const processor: JsonObject = { StartAt: "P", States: { P: pass } };
const ok: JsonObject = { Type: "Succeed" };

/** A definition that is right but for its states. */
function machine(states: JsonObject, fields: JsonObject = {}): JsonObject {
  return { QueryLanguage: "JSONata", StartAt: Object.keys(states)[0] ?? "A", States: states, ...fields };
}
const only = (state: JsonObject): JsonObject => machine({ A: state });
const mapOf = (fields: JsonObject): JsonObject => only({ Type: "Map", ItemProcessor: processor, End: true, ...fields });
const retry = (...entries: Json[]): JsonObject => only(call("f", { Retry: entries }));

type Refusal = readonly [name: string, definition: Json, field: string, found?: RegExp];

const languages: Refusal[] = [
  ["a machine without a query language", { StartAt: "A", States: { A: pass } }, "QueryLanguage"],
  ["a JSONPath machine", machine({ A: pass }, { QueryLanguage: "JSONPath" }), "QueryLanguage"],
  ["a JSONPath state", only({ ...pass, QueryLanguage: "JSONPath" }), "States.A.QueryLanguage"],
  ...["InputPath", "OutputPath", "ResultPath", "Parameters", "ResultSelector", "Result"].map(
    (field): Refusal => [`the JSONPath field ${field}`, only({ ...pass, [field]: "$" }), "States.A", new RegExp(field)],
  ),
  ["a JSONPath timeout", only(call("f", { TimeoutSecondsPath: "$.t" })), "States.A", /TimeoutSecondsPath/],
  [
    "a JSONPath choice rule",
    machine({ A: { Type: "Choice", Choices: [{ Variable: "$.x", IsNull: true, Next: "B" }] }, B: ok }),
    "States.A.Choices[0].Condition",
  ],
];

const unsupported: Refusal[] = [
  ["ItemReader", mapOf({ ItemReader: {} }), "States.A", /ItemReader/],
  ["ResultWriter", mapOf({ ResultWriter: {} }), "States.A", /ResultWriter/],
  ["ItemBatcher", mapOf({ ItemBatcher: {} }), "States.A", /ItemBatcher/],
  ["tolerated failures", mapOf({ ToleratedFailureCount: 1 }), "States.A", /ToleratedFailureCount/],
  ["the old name of ItemProcessor", mapOf({ Iterator: processor }), "States.A", /Iterator/],
  ["Credentials", only(call("f", { Credentials: {} })), "States.A", /Credentials/],
  [
    "a resource that nothing stands behind",
    only(call("f", { Resource: `${LAMBDA}.waitForTaskToken` })),
    "States.A.Resource",
  ],
  ["an unknown type of state", only({ Type: "Script", End: true }), "States.A.Type"],
  ["an unknown field", only({ ...pass, Retrys: [] }), "States.A", /Retrys/],
  ["a field of another type of state", only({ ...pass, Retry: [] }), "States.A", /Retry/],
  ["Assign in Succeed", only({ ...ok, Assign: { x: 1 } }), "States.A", /Assign/],
  ["an unknown field of the machine", machine({ A: pass }, { Timeout: 5 }), "", /Timeout/],
  ["a version of the language that is not known", machine({ A: pass }, { Version: "2.0" }), "Version"],
];

const graph: Refusal[] = [
  ["a start that is no state", machine({ A: pass }, { StartAt: "B" }), "StartAt", /^B$/],
  ["a Next that is no state", only({ Type: "Pass", Next: "B" }), "States.A", /^B$/],
  [
    "a Default that is no state",
    machine({ A: { Type: "Choice", Choices: [{ Condition: true, Next: "B" }], Default: "C" }, B: ok }),
    "States.A",
    /^C$/,
  ],
  ["a Catch that leads nowhere", only(call("f", { Catch: [{ ErrorEquals: ["E"], Next: "B" }] })), "States.A", /^B$/],
  ["a state that nothing leads to", machine({ A: pass, B: pass }), "States.B"],
  [
    "a loop that only leads to itself",
    machine({ A: { Type: "Pass", Next: "B" }, B: { Type: "Pass", Next: "A" } }),
    "States",
  ],
  ["neither Next nor End", only({ Type: "Pass" }), "States.A", /neither/],
  ["both Next and End", machine({ A: { ...pass, Next: "B" }, B: ok }), "States.A", /both/],
  ["End that is false", only({ Type: "Pass", End: false }), "States.A.End"],
  [
    "a transition out of a branch",
    machine({
      A: { Type: "Parallel", Branches: [{ StartAt: "P", States: { P: { Type: "Pass", Next: "B" } } }], Next: "B" },
      B: ok,
    }),
    "States.A.Branches[0].States.P",
    /^B$/,
  ],
  [
    "one name used twice",
    mapOf({ ItemProcessor: { StartAt: "A", States: { A: pass } } }),
    "States.A.ItemProcessor.States.A",
  ],
  ["a name that is too long", machine({ A: pass, ["n".repeat(81)]: pass }), `States.${"n".repeat(81)}`],
  ["no states", machine({}), "StartAt"],
  ["a Choice without rules", machine({ A: { Type: "Choice", Choices: [], Default: "B" }, B: ok }), "States.A.Choices"],
  ["a Parallel without branches", only({ Type: "Parallel", Branches: [], End: true }), "States.A.Branches"],
];

const expressions: Refusal[] = [
  ["an expression that does not parse", only({ ...pass, Output: { a: ["{% ( %}"] } }), "States.A.Output.a[0]"],
  ["an expression that is not closed", only({ ...pass, Output: "{% 1" }), "States.A.Output"],
  ["an unknown function", only({ ...pass, Output: "{% $exsts(1) %}" }), "States.A.Output", /exsts/],
  ["$eval", only({ ...pass, Output: "{% $eval('1') %}" }), "States.A.Output", /eval/],
  ["a variable that no state assigns", only({ ...pass, Output: "{% $nope %}" }), "States.A.Output", /nope/],
  [
    "a variable of an inner machine",
    machine({
      A: { Type: "Parallel", Branches: [{ StartAt: "P", States: { P: { ...pass, Assign: { x: 1 } } } }], Next: "B" },
      B: { ...ok, Output: "{% $x %}" },
    }),
    "States.B.Output",
    /x/,
  ],
  [
    "an inner variable of the name of an outer one",
    machine({
      S: { Type: "Pass", Assign: { x: 1 }, Next: "A" },
      A: { Type: "Parallel", Branches: [{ StartAt: "P", States: { P: { ...pass, Assign: { x: 1 } } } }], End: true },
    }),
    "States.A.Branches[0].States.P.Assign.x",
  ],
  [
    "an outer variable inside a distributed map",
    machine({
      S: { Type: "Pass", Assign: { x: 1 }, Next: "A" },
      A: {
        Type: "Map",
        ItemProcessor: {
          ProcessorConfig: { Mode: "DISTRIBUTED" },
          StartAt: "P",
          States: { P: { ...pass, Output: "{% $x %}" } },
        },
        End: true,
      },
    }),
    "States.A.ItemProcessor.States.P.Output",
  ],
  ["an Assign to `states`", only({ ...pass, Assign: { states: 1 } }), "States.A.Assign.states"],
  ["an Assign to what is no identifier", only({ ...pass, Assign: { "a-b": 1 } }), "States.A.Assign.a-b"],
  [
    "a Condition that is plain text",
    machine({ A: { Type: "Choice", Choices: [{ Condition: "true", Next: "B" }] }, B: ok }),
    "States.A.Choices[0].Condition",
  ],
];

const numbers: Refusal[] = [
  ["a timeout of nothing", only(call("f", { TimeoutSeconds: 0 })), "States.A.TimeoutSeconds"],
  ["a timeout beyond the service's", only(call("f", { TimeoutSeconds: 100_000_000 })), "States.A.TimeoutSeconds"],
  [
    "a heartbeat not below the timeout",
    only(call("f", { TimeoutSeconds: 5, HeartbeatSeconds: 5 })),
    "States.A.HeartbeatSeconds",
  ],
  ["a Wait for nothing in particular", only({ Type: "Wait", End: true }), "States.A", /neither/],
  [
    "a Wait for two things",
    only({ Type: "Wait", Seconds: 1, Timestamp: "{% $now() %}", End: true }),
    "States.A",
    /both/,
  ],
  ["a backoff below 1", retry({ ErrorEquals: ["E"], BackoffRate: 0.5 }), "States.A.Retry[0].BackoffRate"],
  ["a retry of no errors", retry({ ErrorEquals: [] }), "States.A.Retry[0].ErrorEquals"],
  ["an unknown jitter", retry({ ErrorEquals: ["E"], JitterStrategy: "SOME" }), "States.A.Retry[0].JitterStrategy"],
  ["States.ALL beside another error", retry({ ErrorEquals: ["States.ALL", "E"] }), "States.A.Retry[0].ErrorEquals"],
  [
    "States.ALL before the last entry",
    retry({ ErrorEquals: ["States.ALL"] }, { ErrorEquals: ["E"] }),
    "States.A.Retry[0].ErrorEquals",
  ],
  ["a definition that is no object", [], ""],
];

for (const [name, definition, field, found] of [...languages, ...unsupported, ...graph, ...expressions, ...numbers]) {
  test(`refuses ${name}`, () => {
    assert.throws(
      () => loadMachine(definition, { resources: new Set([LAMBDA]) }),
      (error) => {
        assert.ok(error instanceof MergeyardError, String(error));
        assert.equal(error.code, "FlowDefinitionInvalid");
        assert.equal(error.where.field, field);
        if (found !== undefined) assert.match(error.found ?? "", found);
        return true;
      },
    );
  });
}
