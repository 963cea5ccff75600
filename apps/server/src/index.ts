export { type App, type AppDeps, buildApp } from './build-app.ts';
export { ServedModel, ServerConfig, type ServerConfigInput } from './config.ts';
export { ApiError, type ErrorCode } from './errors.ts';
export { type RunningServer, StartError, type StartOptions, startServer } from './start-server.ts';
