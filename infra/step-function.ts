// One Lambda function of the control plane: a file of functions/, bundled whole, under a role of its own that may do
// what its step does and nothing else.
import path from "node:path";
import { type Duration, RemovalPolicy, Stack } from "aws-cdk-lib";
import { Role, ServicePrincipal } from "aws-cdk-lib/aws-iam";
import { Architecture, Runtime } from "aws-cdk-lib/aws-lambda";
import { LogLevel, NodejsFunction, OutputFormat } from "aws-cdk-lib/aws-lambda-nodejs";
import { LogGroup } from "aws-cdk-lib/aws-logs";
import { Construct } from "constructs";
import type { Environment } from "./config.ts";
import { type YardPlace, type YardRole, yardStatements } from "./yard-access.ts";

const ROOT = path.resolve(import.meta.dirname, "..");

export type StepFunctionProps = {
  readonly environment: Environment;
  readonly place: YardPlace;
  readonly role: YardRole;
  /** File of functions/, without its extension. */
  readonly file: string;
  /** A little less than the state that calls it waits, so that its own answer arrives. */
  readonly timeout: Duration;
  readonly memoryMiB: number;
  readonly variables?: Readonly<Record<string, string>>;
};

export class StepFunction extends Construct {
  readonly lambda: NodejsFunction;
  readonly role: Role;
  /** Of the function and its log, for who watches them: other stacks import nothing that may be taken away. */
  readonly functionName: string;
  readonly logGroupName: string;

  constructor(scope: Construct, id: string, props: StepFunctionProps) {
    super(scope, id);
    const { environment, file } = props;
    this.functionName = `mergeyard-${environment.name}-${file}`;
    this.logGroupName = `/mergeyard/${environment.name}/${file}`;
    const logGroup = new LogGroup(this, "Logs", {
      logGroupName: this.logGroupName,
      retention: environment.logDays,
      removalPolicy: RemovalPolicy.DESTROY,
    });
    this.role = new Role(this, "Role", {
      assumedBy: new ServicePrincipal("lambda.amazonaws.com"),
      description: `Mergeyard ${environment.name}: ${file}`,
    });
    logGroup.grantWrite(this.role);
    for (const statement of yardStatements(Stack.of(this), props.role, props.place, environment.sources)) {
      this.role.addToPolicy(statement);
    }
    this.lambda = new NodejsFunction(this, "Function", {
      functionName: this.functionName,
      entry: path.join(ROOT, `functions/${file}.ts`),
      projectRoot: ROOT,
      depsLockFilePath: path.join(ROOT, "package-lock.json"),
      runtime: Runtime.NODEJS_24_X,
      architecture: Architecture.ARM_64,
      memorySize: props.memoryMiB,
      timeout: props.timeout,
      role: this.role,
      logGroup,
      environment: { ...props.variables },
      awsSdkConnectionReuse: false,
      bundling: {
        format: OutputFormat.ESM,
        target: "node24",
        mainFields: ["module", "main"],
        // The SDK that is tested is the SDK that runs.
        externalModules: [],
        logLevel: LogLevel.ERROR,
        banner: 'import { createRequire } from "node:module"; const require = createRequire(import.meta.url);',
      },
    });
  }
}
