// What Lambda gives a function besides the event.

export function lambdaContext(remainingMs = 60_000) {
  return {
    awsRequestId: "1",
    callbackWaitsForEmptyEventLoop: false,
    functionName: "f",
    functionVersion: "1",
    invokedFunctionArn: "arn:aws:lambda:eu-west-1:1:function:f",
    logGroupName: "g",
    logStreamName: "s",
    memoryLimitInMB: "1024",
    getRemainingTimeInMillis: () => remainingMs,
    done: () => undefined,
    fail: () => undefined,
    succeed: () => undefined,
  };
}
