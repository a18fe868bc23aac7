// The cluster, as it changes; a look every few seconds shows what makes no event, such as a lost node.
import { Follower, refresh } from "./live.js";

new Follower(() => "/live", { change: refresh, back: refresh });
setInterval(() => document.hidden || refresh(), 5000);
