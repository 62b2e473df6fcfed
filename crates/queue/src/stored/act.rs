//! What an operator's action does to a state.

use super::state::{Place, Request, StoredState};
use crate::contract::ActResult;
use crate::model::{Action, Phase};

/// What an action comes to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Acting {
    pub result: ActResult,
    pub change: Change,
}

/// What has to be recorded.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Change {
    Nothing,
    /// This is the state now. Of a leased job, [`StoredState::back`] tells the schedule.
    State(Box<StoredState>),
    /// The job has ended.
    Gone,
}

impl StoredState {
    /// What `action` does to the job, whose `phase` the schedule tells.
    pub fn acted(&self, action: Action, phase: Phase) -> Acting {
        let active = phase == Phase::Active;
        let moving = matches!(phase, Phase::Ready | Phase::Deferred);
        let stopped = matches!(phase, Phase::Held | Phase::Quarantined);
        match action {
            Action::Hold if active => self.requested(Request::Hold),
            Action::Hold if moving => self.moved(Place::Held),
            Action::Release if stopped => self.moved(Place::Ready),
            Action::Release if active && self.request == Some(Request::Hold) => {
                self.moved(self.place.clone())
            }
            Action::RetryNow if moving && self.request.is_none() => self.moved(Place::Urgent),
            Action::CancelWithDsn => self.requested(Request::CancelWithDsn),
            Action::CancelSilently if active => self.requested(Request::CancelSilently),
            Action::CancelSilently => Acting { result: ActResult::Done, change: Change::Gone },
            Action::Hold | Action::Release | Action::RetryNow => {
                Acting { result: ActResult::NotApplicable, change: Change::Nothing }
            }
        }
    }

    /// The last request counts: a job that moves is asked nothing else.
    fn moved(&self, place: Place) -> Acting {
        let state = Self { place, request: None, ..self.clone() };
        Acting { result: ActResult::Done, change: Change::State(Box::new(state)) }
    }

    fn requested(&self, request: Request) -> Acting {
        let state = Self { request: Some(request), ..self.clone() };
        Acting { result: ActResult::Requested, change: Change::State(Box::new(state)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stored::state::tests::envelope;

    #[test]
    fn each_action_in_each_phase() {
        use ActResult::{Done, NotApplicable, Requested};
        let phases =
            [Phase::Ready, Phase::Active, Phase::Deferred, Phase::Held, Phase::Quarantined];
        for (action, results) in [
            (Action::Hold, [Done, Requested, Done, NotApplicable, NotApplicable]),
            (Action::Release, [NotApplicable, NotApplicable, NotApplicable, Done, Done]),
            (Action::RetryNow, [Done, NotApplicable, Done, NotApplicable, NotApplicable]),
            (Action::CancelWithDsn, [Requested; 5]),
            (Action::CancelSilently, [Done, Requested, Done, Done, Done]),
        ] {
            for (phase, want) in phases.into_iter().zip(results) {
                let acting = StoredState::fresh(&envelope()).acted(action, phase);
                assert_eq!(acting.result, want, "{action:?} of {phase:?}");
                let nothing = acting.change == Change::Nothing;
                assert_eq!(nothing, want == NotApplicable, "{action:?} of {phase:?}");
            }
        }
    }

    #[test]
    fn a_release_takes_back_a_hold() {
        let fresh = StoredState::fresh(&envelope());
        let Change::State(held) = fresh.acted(Action::Hold, Phase::Active).change else { panic!() };
        assert_eq!(held.request, Some(Request::Hold));
        let Change::State(back) = held.acted(Action::Release, Phase::Active).change else {
            panic!()
        };
        assert_eq!(*back, fresh);
    }
}
