//! Devices and their API keys.

use heliograph_storage::{self as storage, RowsRead, RowsWrite};

use super::{
    Effect, Limits, Outcome, Register, layout,
    rows::{self, DeviceRow, KeyRow},
    shard::Target,
};
use crate::model::MailboxKey;

/// Bytes of a device or key row besides the device id, about.
const ROW_BYTES: usize = 128;

/// See `Command::Register`. Repeating it changes nothing.
pub(super) fn register<R: RowsWrite + ?Sized>(
    target: &mut Target<'_, R>,
    register: &Register,
    limits: &Limits,
    now_ms: u64,
) -> Result<Outcome, storage::Error> {
    let known = read(target.rows, &register.mailbox)?;
    let key = KeyRow {
        mailbox: register.mailbox,
        device: register.device.clone(),
        hash: register.key_hash,
    };
    let slot = register.mailbox.slot();
    let key_place = layout::key(slot, register.key_id);
    if let Some(value) = target.rows.get(&key_place)? {
        let before: KeyRow = rows::decode(&value)?;
        let repeated =
            before == key && known.is_some_and(|device| device.public_key == register.public_key);
        return Ok(if repeated { Outcome::Registered } else { Outcome::KeyIdTaken });
    }
    let mut device = match known {
        Some(device)
            if device.device != register.device
                || device.public_key != register.public_key
                || !register.signed =>
        {
            return Ok(Outcome::DeviceTaken);
        }
        Some(device) => device,
        None => DeviceRow {
            device: register.device.clone(),
            public_key: register.public_key,
            registered_ms: now_ms,
            key_ids: Vec::new(),
        },
    };
    device.key_ids.push(register.key_id);
    let excess = device.key_ids.len().saturating_sub(limits.device_keys_max.max(1));
    let dropped: Vec<u64> = device.key_ids.drain(..excess).collect();
    forget_keys(target, &register.mailbox, &dropped);
    target.rows.put(&key_place, rows::encode(&key, ROW_BYTES));
    write(target.rows, &register.mailbox, &device);
    Ok(Outcome::Registered)
}

/// See `Command::RevokeKey`.
pub(super) fn revoke<R: RowsWrite + ?Sized>(
    target: &mut Target<'_, R>,
    mailbox: &MailboxKey,
    key_id: Option<u64>,
) -> Result<Outcome, storage::Error> {
    let Some(mut device) = read(target.rows, mailbox)? else {
        return Ok(Outcome::KeysRevoked { key_ids: Vec::new() });
    };
    let (revoked, left): (Vec<u64>, Vec<u64>) =
        device.key_ids.iter().partition(|id| key_id.is_none_or(|one| one == **id));
    if !revoked.is_empty() {
        forget_keys(target, mailbox, &revoked);
        device.key_ids = left;
        write(target.rows, mailbox, &device);
    }
    Ok(Outcome::KeysRevoked { key_ids: revoked })
}

/// The device of a mailbox.
pub(super) fn read(
    source: &(impl RowsRead + ?Sized),
    mailbox: &MailboxKey,
) -> Result<Option<DeviceRow>, storage::Error> {
    source.get(&layout::device(mailbox))?.map(|value| rows::decode(&value)).transpose()
}

fn write(target: &mut (impl RowsWrite + ?Sized), mailbox: &MailboxKey, device: &DeviceRow) {
    target.put(&layout::device(mailbox), rows::encode(device, ROW_BYTES));
}

fn forget_keys<R: RowsWrite + ?Sized>(
    target: &mut Target<'_, R>,
    mailbox: &MailboxKey,
    key_ids: &[u64],
) {
    for key_id in key_ids {
        target.rows.delete(&layout::key(mailbox.slot(), *key_id));
    }
    if !key_ids.is_empty() {
        let key_ids = key_ids.to_vec();
        target.effects.push(Effect::KeysRevoked { mailbox: *mailbox, key_ids });
    }
}
