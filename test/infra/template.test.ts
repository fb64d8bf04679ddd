// Properties of what is deployed, asserted on the synthesized templates. The library that makes them is heavy, so all
// cases run in one process.
import "./access-cases.ts";
import "./change-cases.ts";
import "./cost-cases.ts";
import "./data-cases.ts";
import "./finding-cases.ts";
import "./flow-cases.ts";
import "./machine-cases.ts";
import "./people-cases.ts";
import "./watch-cases.ts";
