" Vim syntax file of mailgate's configuration. Written by `make docs` from the declarations.
if exists("b:current_syntax")
  finish
endif

syntax iskeyword @,48-57,_,.,-

syntax match mailgateUnknown "\%(^\|[{}]\s\)\s*\zs[A-Za-z_][A-Za-z0-9_.-]*"
syntax keyword mailgateDirective addr address address_literals all allow allow_loopback announce_size ask
syntax keyword mailgateDirective attempt_starttls attempts attribute auth auth_insecure auth_mechanisms
syntax keyword mailgateDirective auth_required auth_required_message authserv_id backoff balance banner
syntax keyword mailgateDirective base_dn bind body_spool_limit bounce ca cache cache_size canonicalization
syntax keyword mailgateDirective case_insensitive cert certificate check chunking ciphers client_auth
syntax keyword mailgateDirective client_ca command_timeout compare concurrency connect connect_timeout
syntax keyword mailgateDirective connections control copy_to create curves dane data data_block data_timeout
syntax keyword mailgateDirective debug default_destination default_source defer_sender_reject deliver_to
syntax keyword mailgateDirective destaddr destination destination_in destport disable_commands discard
syntax keyword mailgateDirective dn_template dnssec domains early_talker ehlo endpoint entry
syntax keyword mailgateDirective expand_placeholders expect expire failover failures fallback_delay file
syntax keyword mailgateDirective filter final_dot from full_match given greeting greeting_delay
syntax keyword mailgateDirective handshake_timeout header health helo helo_response hide hide_client
syntax keyword mailgateDirective hold_timeout hostname ident idle_timeout import insecure_auth ip ip_strategy
syntax keyword mailgateDirective key lease_timeout level limits list listener local_domains local_policy log
syntax keyword mailgateDirective log_name login mail_from match max_age max_auth_failures max_command_length
syntax keyword mailgateDirective max_connections max_connections_per_endpoint max_connections_per_ip
syntax keyword mailgateDirective max_errors max_header_count max_header_size max_idle max_line_length
syntax keyword mailgateDirective max_message_size max_messages max_received max_recipients
syntax keyword mailgateDirective max_rejected_recipients max_unauthenticated_commands min_mx_level
syntax keyword mailgateDirective min_tls_level modify mta_sts mtasts mtasts_root_ca multihomed_limit mx_auth
syntax keyword mailgateDirective mx_limit name negative negative_cache network nonlocal_source notify nul
syntax keyword mailgateDirective on_error on_fail on_split optional_step oversign_headers port positive
syntax keyword mailgateDirective private_key probe proto protocol protocols proxy_protocol quiet_hosts quit
syntax keyword mailgateDirective rcpt rcpt_to read_timeout refuse_clients reject reject_threshold relay_from
syntax keyword mailgateDirective reload_interval reports require_tls required reroute reserved_connections
syntax keyword mailgateDirective resolver responses retry reverse_lookup reverse_lookup_timeout root_ca rset
syntax keyword mailgateDirective runtime_dir schemes scope score sender servers session_timeout
syntax keyword mailgateDirective shutdown_timeout sign_headers size slow_start smtp_max_line_length sni
syntax keyword mailgateDirective sni_lookup socket_group socket_mode socket_owner source source_in source_ip
syntax keyword mailgateDirective source_ip_fallback source_selection starttls state_dir step store
syntax keyword mailgateDirective strict_addresses strict_line_endings subdomains subject submission_timeout
syntax keyword mailgateDirective target targets tarpit tempfail text timeout timeouts tls
syntax keyword mailgateDirective tls_capture_peer_cert tls_ciphers tls_client tls_client_cert tls_default_ca
syntax keyword mailgateDirective tls_protocols tls_sni tls_start tls_verify_host tls_verify_name token total
syntax keyword mailgateDirective trust trusted urls user user_attribute users verify verify_failure weight
syntax keyword mailgateDirective xclient xclient_required xforward
syntax keyword mailgateModule admin auth.external auth.file auth.ldap auth.smtp auth.static chain check.dnsbl
syntax keyword mailgateModule check.matching_helo check.require_auth check.require_mx
syntax keyword mailgateModule check.require_reverse_dns check.require_tls check.verify_recipient checks dkim
syntax keyword mailgateModule dnsbl email_localpart email_with_domain external identity ldap lmtp maildir
syntax keyword mailgateModule matching_helo modifiers modify.dkim modify.replace_rcpt modify.replace_sender
syntax keyword mailgateModule msgpipeline pki queue regexp remote replace_rcpt replace_sender require_auth
syntax keyword mailgateModule require_mx require_reverse_dns smtp source_address static submission table.chain
syntax keyword mailgateModule table.email_localpart table.email_with_domain table.file table.identity
syntax keyword mailgateModule table.ldap table.regexp table.static target.lmtp target.maildir target.queue
syntax keyword mailgateModule target.remote target.smtp test verify_recipient
syntax keyword mailgateValue 0600 0660 0666 8BITMIME AUTH BDAT BINARYMIME CHUNKING CRAM-MD5 DSN
syntax keyword mailgateValue ENHANCEDSTATUSCODES EXPN EXTERNAL HELP LIMITS LOGIN OAUTHBEARER PIPELINING PLAIN
syntax keyword mailgateValue REQUIRETLS SCRAM-SHA-256 SCRAM-SHA-256-PLUS SIZE SMTPUTF8 STARTTLS VRFY XOAUTH2
syntax keyword mailgateValue accept argon2 authenticated auto base bcrypt clear client_ip cram-md5
syntax keyword mailgateValue dane_fallback_require_verify dane_require defer delayed disabled encrypted error
syntax keyword mailgateValue failed false fingerprint forward happy_eyeballs ignore info ipv4_only
syntax keyword mailgateValue ipv4_then_ipv6 ipv6_only ipv6_then_ipv4 json least_busy next no none normalize
syntax keyword mailgateValue oauthbearer off on one operate optional optional_verify ordered plain quarantine
syntax keyword mailgateValue random relaxed/relaxed relaxed/simple require require_verify round_robin
syntax keyword mailgateValue scram-sha-256 self_signed sender_domain sha256-crypt sha512-crypt simple/relaxed
syntax keyword mailgateValue simple/simple sqlite stderr stdout strip sub success syslog tag true v1 v2 view
syntax keyword mailgateValue warn xoauth2 yes yescrypt
syntax keyword mailgateOperator and else if in matches not or then when
syntax match mailgateFunction "\<\%(contains\|domain\|has_prefix\|has_suffix\|hash\|is_local\|len\|localpart\|lookup\|lower\|split\|upper\)\ze("

syntax match mailgateNumber "\<\d\+\%(\.\d\+\)\=\%(ms\|us\|[wdhmsGMKBgkb]\)\=\>"
syntax match mailgateAddress "\<\%(tcp\|tls\|unix\|mx\|fd\)://\S*"
syntax match mailgateReference "\%(^\|\s\)\zs&[A-Za-z_][A-Za-z0-9_.-]*"
syntax match mailgateMacro "\$([A-Za-z_][A-Za-z0-9_.-]*)" containedin=mailgateAddress
syntax match mailgateSnippet "^\s*([A-Za-z_][A-Za-z0-9_.-]*)"
syntax match mailgateEnvironment "{env:[^}]*}" containedin=mailgateString,mailgateAddress
syntax match mailgateJoin "\s\zs\\$"
syntax region mailgateString start=+\%(^\|[[:space:](\[,]\)\zs"+ skip=+\\"+ end=+"+
syntax match mailgateComment "\%(^\|\s\)\zs#.*$" contains=@Spell

highlight default link mailgateDirective Keyword
highlight default link mailgateModule Type
highlight default link mailgateValue Constant
highlight default link mailgateOperator Operator
highlight default link mailgateFunction Function
highlight default link mailgateNumber Number
highlight default link mailgateAddress Identifier
highlight default link mailgateReference Identifier
highlight default link mailgateMacro PreProc
highlight default link mailgateSnippet PreProc
highlight default link mailgateEnvironment PreProc
highlight default link mailgateJoin Special
highlight default link mailgateString String
highlight default link mailgateComment Comment

let b:current_syntax = "mailgate"
