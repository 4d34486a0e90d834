//! Clients at work in the simulated cluster, while faults come and go and until all has arrived.

use std::{rc::Rc, time::Duration};

use rand::{Rng, SeedableRng, rngs::SmallRng};
use tokio::time::Instant;

use super::{MAILBOXES, PATIENCE, SENDERS, World};
use crate::{
    clients,
    faults::{self, Fault},
};

impl World {
    /// Lets clients work for `span` while faults come and go.
    pub(crate) async fn run_with_faults(&mut self, span: Duration) {
        let end = Instant::now() + span;
        self.start_clients(end);
        let clients = std::mem::take(&mut self.clients);
        clients
            .run_until(async {
                while Instant::now() < end {
                    let pause = Duration::from_millis(self.rng.random_range(200..2500));
                    tokio::time::sleep(pause).await;
                    let fault = Fault::random(self.nodes(), &mut self.rng);
                    faults::install(self, fault).await;
                    self.check_single_leaders();
                }
            })
            .await;
        self.clients = clients;
    }

    fn start_clients(&mut self, end: Instant) {
        let end_of_listening = end + PATIENCE;
        for name in 0..SENDERS {
            let rng = SmallRng::seed_from_u64(self.rng.random());
            let (relays, ledger) = (Rc::clone(&self.relays), Rc::clone(&self.ledger));
            let sender = clients::sender(name, MAILBOXES, relays, ledger, rng, end);
            let senders = Rc::clone(&self.senders);
            senders.set(senders.get() + 1);
            self.clients.spawn_local(async move {
                sender.await;
                senders.set(senders.get() - 1);
            });
        }
        for mailbox in 0..MAILBOXES {
            let rng = SmallRng::seed_from_u64(self.rng.random());
            let (relays, ledger) = (Rc::clone(&self.relays), Rc::clone(&self.ledger));
            if mailbox % 2 == 0 {
                let principal = self.principals[mailbox].clone();
                let client =
                    clients::listener(mailbox, principal, relays, ledger, rng, end_of_listening);
                self.clients.spawn_local(client);
            } else {
                let client = clients::poller(mailbox, relays, ledger, rng, end_of_listening);
                self.clients.spawn_local(client);
            }
        }
    }

    /// Mends everything, starts every node, and waits until every accepted message has arrived.
    pub(crate) async fn heal_and_settle(&mut self) {
        self.fabric.heal();
        tracing::debug!("all is mended");
        for index in 0..self.nodes() {
            if !self.is_up(index) && !self.is_lost(index) {
                self.boot(index).await;
            }
        }
        let clients = std::mem::take(&mut self.clients);
        clients
            .run_until(async {
                self.all_ready().await;
                let deadline = Instant::now() + PATIENCE / 2;
                // What a sender is still trying may be accepted at its last attempt.
                let is_busy = || self.senders.get() > 0 || self.ledger.borrow().outstanding() > 0;
                while is_busy() && Instant::now() < deadline {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                // Clients that are in the middle of something end it.
                tokio::time::sleep(Duration::from_secs(4)).await;
            })
            .await;
        drop(clients);
    }
}
