//! `events`: what happened, and what happens.

use tribune_messages::api::{ApiRequest, ApiResponse, Query, Wait};
use tribune_raft_store::model::Event;

use crate::args::EventsArgs;
use crate::context::{Context, unexpected};
use crate::exit::Exit;
use crate::json::EventView;
use crate::output::{end_with_reader, fleet};
use crate::problem::Done;

/// Prints events; with `--follow`, until it is stopped.
pub async fn events(context: &mut Context, args: EventsArgs) -> Done {
    let mut seen = args.after;
    let mut wait = Wait::No;
    if args.follow {
        end_with_reader();
    }
    loop {
        for event in ask(context, seen, args.limit, wait).await? {
            context.print.show("event", || fleet::event(&event), || EventView::of(&event));
            seen = Some(event.seq);
        }
        if !args.follow {
            return Ok(Exit::Done);
        }
        // Without any event yet: all there will be are new.
        seen = seen.or(Some(0));
        wait = Wait::ForSomething;
    }
}

async fn ask(context: &mut Context, after: Option<u64>, limit: u32, wait: Wait) -> Done<Vec<Event>> {
    match context.ask(ApiRequest::Query(Query::Events { after, limit, wait })).await? {
        ApiResponse::Events(events) => Ok(events),
        _ => Err(unexpected("the events")),
    }
}
